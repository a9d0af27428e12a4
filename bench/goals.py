"""What was to be reached, and whether it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from bench.plan import (
    LIMIT,
    NO_SYNC,
    ONE_200,
    OURS,
    OURS_16,
    PLAIN,
    SERVERS,
    SUBMIT,
    SYNC,
    TENS,
    System,
)
from bench.results import Figure, Results, Section, chosen, figure, rate, ratios, spread


class Goal(Struct, frozen=True):
    """One line of the table."""

    what: str
    wanted: str
    measured: str
    met: bool


def reached(results: Results) -> list[Goal]:
    """Of all sections that are there and count."""
    found: list[Goal] = []
    for name, judge in JUDGES.items():
        section = results.sections.get(name)
        if section is not None and not section.void:
            found += judge(section)
    return found


def at_least(what: str, values: Iterable[float], least: float, shown: str) -> list[Goal]:
    """The median must be so much; nothing if there is none."""
    cell = spread(values)
    if cell is None:
        return []
    met = cell.median >= least
    return [Goal(what, f"≥ {shown.format(least)}", shown.format(cell.median), met)]


def below(what: str, values: Iterable[float], most: float, shown: str) -> list[Goal]:
    """The median must be less."""
    cell = spread(values)
    if cell is None:
        return []
    met = cell.median < most
    return [Goal(what, f"< {shown.format(most)}", shown.format(cell.median), met)]


def _rates(section: Section) -> list[Goal]:
    found: list[Goal] = []
    for server in SERVERS:
        ours, limit, plain = (
            chosen(section, system.name, ONE_200.name, server) for system in (OURS, LIMIT, PLAIN)
        )
        of_limit = f"200 agents, one at a time, of the limit loop ({server})"
        found += at_least(of_limit, ratios(ours, limit), 0.70, "{:.2f}")
        over_plain = f"the same over plain nats-py, fetch(1) + ack_sync ({server})"
        found += at_least(over_plain, ratios(ours, plain), 1.8, "{:.1f} ×")
        ours, plain = (chosen(section, system.name, TENS.name, server) for system in (OURS, PLAIN))
        tens = f"claims of ten over plain nats-py, fetch(100) + unconfirmed acks ({server})"
        found += at_least(tens, ratios(ours, plain), 1.0, "{:.2f} ×")
    for system, least in ((OURS, 0.75), (LIMIT, 0.85)):
        with_sync, without = (
            chosen(section, system.name, ONE_200.name, server) for server in (SYNC, NO_SYNC)
        )
        what = f"with sync, of the rate without: {system.title}"
        found += at_least(what, ratios(with_sync, without), least, "{:.2f}")
    submitted = chosen(section, OURS.name, SUBMIT.name)
    return found + at_least(
        "submit in batches of 1,000, items/s", map(rate, submitted), 100_000, "{:,.0f}"
    )


#: Times each peer's rate.
OVER_PEERS = {"celery": 10.0, "dramatiq": 3.0, "taskiq": 3.0, "faststream": 2.0}
PLACES = ("redis", NO_SYNC, SYNC)


def _peers(section: Section) -> list[Goal]:
    found: list[Goal] = []
    for name, least in OVER_PEERS.items():
        for place in PLACES:
            theirs = chosen(section, name, ONE_200.name, place)
            # Beside Redis, which does not sync either, we run without; and with, for good measure.
            for server in (NO_SYNC, SYNC) if place == "redis" else (place,):
                ours = chosen(section, OURS.name, ONE_200.name, server)
                what = f"200 agents, one at a time ({server}) over {name} ({place})"
                found += at_least(what, ratios(ours, theirs), least, "{:.1f} ×")
    return found


def _named(
    section: Section, workload: str, of: Figure, server: str = SYNC, system: System = OURS_16
) -> list[float]:
    return [of(session) for session in chosen(section, system.name, workload, server)]


def _latency(section: Section) -> list[Goal]:
    found: list[Goal] = []
    for system in (OURS, OURS_16):
        for server in SERVERS:
            for percent, most in ((50, 3.0), (99, 15.0)):
                shards = "1 shard" if system.shards == 1 else f"{system.shards} shards"
                what = f"submit → start at 1,000/s, 1,000 agents, {shards} ({server}), p{percent}"
                of = figure(f"start_p{percent}_ms")
                found += below(
                    what, _named(section, "at_1000", of, server, system), most, "{:.1f} ms"
                )
    return found


def _queue(section: Section) -> list[Goal]:
    long, short = (
        [s for s in section.sessions if s.workload == name]
        for name in ("queue_1000000", "queue_1000")
    )
    what = "claim rate with 1,000,000 queued, of that with 1,000"
    return at_least(what, ratios(long, short), 0.9, "{:.2f}")


def _idle(section: Section) -> list[Goal]:
    cpu = _named(section, "idle_1000", figure("system_cpu_percent"))
    memory = _named(section, "idle_1000", figure("system_mb"))
    return [
        *below("1,000 idle agents on one coordinator, of a core", cpu, 5.0, "{:.1f} %"),
        *below("1,000 idle agents on one coordinator, memory", memory, 250.0, "{:.0f} MB"),
    ]


def _scale(section: Section) -> list[Goal]:
    costs = _costs(section)
    found: list[Goal] = []
    for what, small, large in (
        ("2 → 4 coordinators, 16 shards", "2_16", "4_16"),
        ("2 → 8 coordinators, 16 shards", "2_16", "8_16"),
        ("16 → 64 shards, 2 coordinators", "2_16", "2_64"),
        ("16 → 64 shards, 8 coordinators", "8_16", "8_64"),
    ):
        together = _growth(costs, "scale", small, large)
        grown = [growth / costs["scale_" + small, number] for number, growth in together.items()]
        found += below(f"CPU time an item grows, {what}, by", grown, 0.15, "{:.0%}")
        # What more processes than cores cost by themselves, more machines would not.
        apart = _growth(costs, "apart", small, large)
        beyond = [
            (together[number] - apart[number]) / costs["scale_" + small, number]
            for number in together.keys() & apart.keys()
        ]
        of_that = "of that, beyond what as many swarms that share nothing cost more"
        found += below(of_that, beyond, 0.15, "{:.0%}")
    return found


def _costs(section: Section) -> dict[tuple[str, int], float]:
    """Microseconds an item, by size and round."""
    return {
        (session.workload, session.round): session.figures["cost_us"]
        for session in section.sessions
        if "cost_us" in session.figures
    }


def _growth(
    costs: dict[tuple[str, int], float], kind: str, small: str, large: str
) -> dict[int, float]:
    """Microseconds an item more, by round: a machine that slows down slows down both."""
    return {
        number: cost - costs[f"{kind}_{small}", number]
        for (workload, number), cost in costs.items()
        if workload == f"{kind}_{large}" and (f"{kind}_{small}", number) in costs
    }


JUDGES: dict[str, Callable[[Section], list[Goal]]] = {
    "rates": _rates,
    "peers": _peers,
    "latency": _latency,
    "queue": _queue,
    "idle": _idle,
    "scale": _scale,
}
