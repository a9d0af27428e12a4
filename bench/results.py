"""A run's results: raw, and what is made of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from msgspec import Struct

from bench.plan import (
    LIMIT,
    LIMIT_OVER_PLAIN_MIN,
    ONE_200,
    OURS,
    OURS_16,
    PLAIN,
    System,
    Workload,
)

#: Ratios that are shown: each of two sessions of one round.
PAIRS: tuple[tuple[System, System], ...] = ((OURS, LIMIT), (OURS_16, LIMIT), (LIMIT, PLAIN))


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


class Spread(Struct):
    """Median, least and most."""

    median: float
    least: float
    most: float


class Run(Struct):
    """Everything about one `python -m bench`."""

    format: int
    started: str
    took_s: float
    command: str
    quick: bool
    rounds: int
    machine: dict[str, str | int | float]
    settings: dict[str, str | int | float | bool]
    sessions: list[Session]
    #: Items a second by system, then workload.
    rates: dict[str, dict[str, Spread]] = {}
    #: By "a/b", then workload: the ratio of each round.
    ratios: dict[str, dict[str, list[float]]] = {}
    ratio_medians: dict[str, dict[str, float]] = {}
    #: Limit loop over plain at 200 agents, medians.
    gate: float = 0.0
    #: The limit loop was too slow: nothing can be said.  Not judged in a quick run.
    void: bool = False
    verified: dict[str, int] = {}


def conclude(run: Run) -> None:
    """Fill in everything that follows from the sessions."""
    for session in run.sessions:
        run.rates.setdefault(session.system, {}).setdefault(
            session.workload, spread(_rates(run, session.system, session.workload))
        )
    for above, below in PAIRS:
        name = f"{above.name}/{below.name}"
        for workload in run.rates.get(below.name, {}):
            ratios = _ratios(run, above, below, workload)
            if ratios:
                run.ratios.setdefault(name, {})[workload] = ratios
                medians = run.ratio_medians.setdefault(name, {})
                medians[workload] = round(statistics.median(ratios), 3)
    limit, plain = (run.rates[system.name][ONE_200.name].median for system in (LIMIT, PLAIN))
    run.gate = round(limit / plain, 3)
    run.void = not run.quick and run.gate < LIMIT_OVER_PLAIN_MIN
    run.verified = _verified(run.sessions)


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    values = sorted(values)
    return Spread(statistics.median(values), values[0], values[-1])


def cpu_us(run: Run, system: System, workload: Workload) -> dict[str, float]:
    """Median CPU microseconds an item, by process; {} where the machine does not tell."""
    sessions = [s for s in run.sessions if (s.system, s.workload) == (system.name, workload.name)]
    roles = sessions[0].cpu_s if sessions else {}
    return {
        role: statistics.median(s.cpu_s[role] / s.measured * 1e6 for s in sessions)
        for role in roles
    }


def _rates(run: Run, system: str, workload: str) -> list[float]:
    return [s.rate for s in run.sessions if (s.system, s.workload) == (system, workload)]


def _ratios(run: Run, above: System, below: System, workload: str) -> list[float]:
    by_round = {(s.round, s.system): s.rate for s in run.sessions if s.workload == workload}
    return [
        round(by_round[number, above.name] / by_round[number, below.name], 3)
        for number in range(1, run.rounds + 1)
        if (number, above.name) in by_round and (number, below.name) in by_round
    ]


def _verified(sessions: list[Session]) -> dict[str, int]:
    """Sums of what our own shards reported; every session was checked by itself."""
    ours = [s for s in sessions if s.system in {OURS.name, OURS_16.name}]
    sums = {"sessions": len(ours), "sessions_all": len(sessions)}
    for name in ("submitted", "completed", "queued", "claimed", "dead", "conservation"):
        sums[name] = sum(s.checked[name] for s in ours)
    return sums
