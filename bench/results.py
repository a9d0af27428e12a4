"""Results: raw sessions by section, and what is made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.plan import LIMIT, LIMIT_OVER_PLAIN_MIN, ONE_200, PLAIN, SYNC

FORMAT = 2


class Session(Struct):
    """One measured session."""

    round: int
    system: str
    workload: str
    #: Items submitted, and those of them that were measured.
    items: int
    measured: int
    seconds: float
    rate: float
    cpu_s: dict[str, float]
    checked: dict[str, int]
    noted: dict[str, int]
    #: The machine's fixed loop just before.
    probe_ms: float
    #: How NATS wrote (`SYNC`, `NO_SYNC`), or what else kept the items.
    server: str = SYNC
    #: Whatever else was measured; names end in their unit.
    figures: dict[str, float] = {}


class Section(Struct):
    """One part of the benchmark, as it was last measured."""

    started: str
    took_s: float
    command: str
    quick: bool
    rounds: int
    machine: dict[str, str | int | float]
    settings: dict[str, str | int | float | bool]
    sessions: list[Session]
    #: Why nothing can be said; "" when something can.
    void: str = ""


class Results(Struct):
    """Everything that was measured, each section when it was."""

    format: int = FORMAT
    sections: dict[str, Section] = {}


class Spread(Struct):
    """Median, least and most."""

    median: float
    least: float
    most: float


#: What of a session a ratio is made of.
Figure = Callable[[Session], float]


def rate(session: Session) -> float:
    """Items a second."""
    return session.rate


def figure(name: str) -> Figure:
    """The one of that name."""
    return lambda session: session.figures[name]


def figures(sessions: list[Session], name: str) -> list[float]:
    """Of those that have it: an earlier version of the benchmark may not have measured it."""
    return [session.figures[name] for session in sessions if name in session.figures]


def load(path: Path) -> Results:
    """What is recorded; nothing where there is none."""
    if not path.exists():
        return Results()
    found = msgspec.json.decode(path.read_bytes())
    if found.get("format") != FORMAT:
        return Results()  # of another version of the benchmark: it is measured anew
    return msgspec.convert(found, Results)


def store(results: Results, path: Path) -> None:
    """Write it, for people, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def merge(recorded: Results, measured: Results) -> Results:
    """What was measured now in the place of what was measured before."""
    return Results(FORMAT, recorded.sections | measured.sections)


def chosen(section: Section, system: str, workload: str, server: str = SYNC) -> list[Session]:
    """The sessions of one system with one workload, by round."""
    wanted = (system, workload, server)
    return [s for s in section.sessions if (s.system, s.workload, s.server) == wanted]


def spread(values: Iterable[float]) -> Spread | None:
    """None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def ratios(above: list[Session], below: list[Session], of: Figure = rate) -> list[float]:
    """Of the two sessions of each round: a machine that slows down slows down both."""
    by_round = {session.round: of(session) for session in below}
    return [of(s) / by_round[s.round] for s in above if by_round.get(s.round)]


def cpu_us(sessions: list[Session]) -> dict[str, float]:
    """Median CPU microseconds an item, by process; {} where the machine does not tell."""
    roles = sessions[0].cpu_s if sessions else {}
    return {
        role: statistics.median(s.cpu_s[role] / s.measured * 1e6 for s in sessions)
        for role in roles
    }


def gate(section: Section, server: str) -> float:
    """The limit loop with 200 agents over plain nats-py on the same server, medians."""
    limit, plain = (
        spread(map(rate, chosen(section, system.name, ONE_200.name, server)))
        for system in (LIMIT, PLAIN)
    )
    return limit.median / plain.median if limit and plain else 0.0


def judge(section: Section, servers: Iterable[str]) -> None:
    """Void unless the limit loop is fast enough on each server; a quick one is not judged."""
    slow = [
        f"with {server} the limit loop reached {gate(section, server):.2f} × plain nats-py, "
        f"a run counts from {LIMIT_OVER_PLAIN_MIN} × on"
        for server in servers
        if gate(section, server) < LIMIT_OVER_PLAIN_MIN
    ]
    section.void = "" if section.quick else "; ".join(slow)


def verified(sessions: Iterable[Session]) -> dict[str, int]:
    """Sums of what our own shards reported; every session was checked by itself."""
    ours = [s for s in sessions if "conservation" in s.checked]
    sums = {"sessions": len(ours)}
    for name in ("submitted", "completed", "queued", "claimed", "dead", "conservation"):
        sums[name] = sum(s.checked.get(name, 0) for s in ours)
    return sums
