"""Runs that take long and are made apart: their results, and how the README shows them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from bench.shard_life import Life, tell
from bench.tables import table

HERE = Path(__file__).resolve().parent
SHARD_LIFE = "shard_life.json"
ENTERPRISE = "enterprise.json"
SOAK = "soak.json"

Settled = dict[str, str]
Machine = dict[str, str | int | float]


# --- the rehearsal -------------------------------------------------------------------------


class Rehearsal(Struct):
    """20 coordinators on one machine, and what it says of many machines."""

    started: str
    took_s: float
    settings: Settled
    #: Settings of the guide that this version does not have.
    unknown: list[str]
    coordinators: int
    shards: int
    agents: int
    items: int
    settled_s: float
    #: Shards by coordinator then.
    owns: dict[str, int]
    submit_and_work_s: float
    rate: float
    #: Most resident bytes, by process.
    rss: dict[str, int]
    #: CPU seconds while the items after the warm-up were worked on, by process, and these items.
    cpu_s: dict[str, float]
    measured: int
    #: CPU, % of a core, of all coordinators and the router together, and of nats-server, before
    #: there were agents or items.
    idle_nodes_percent: float
    idle_nats_percent: float
    #: Bytes that NATS stored: most, and at the end.
    stored_most: int
    stored: int
    #: Bytes to and from nats-server.
    network: int
    checked: dict[str, int]
    machine: Machine

    @property
    def core_s_per_item(self) -> float:
        """Of coordinators, router and NATS."""
        used = sum(seconds for role, seconds in self.cpu_s.items() if role != "load")
        return used / self.measured


#: The guide's day, and how much of it may come in its busiest hour for the forecast.
ITEMS_A_DAY = 1_000_000
PEAK_TIMES = 10
RETENTION_DAYS = 7
DAY_S = 86_400


def of_rehearsal(run: Rehearsal) -> str:
    """For the README."""
    coordinators = [size for name, size in run.rss.items() if name.startswith("coordinator")]
    rows = [["process", "most resident, MB", "CPU s"]]
    cpu = [run.cpu_s.get(name, 0.0) for name in run.rss if name.startswith("coordinator")]
    rows.append(
        [
            f"{len(coordinators)} coordinators, each",
            (
                f"{statistics.median(coordinators) / 1e6:.0f} [{min(coordinators) / 1e6:.0f}–"
                f"{max(coordinators) / 1e6:.0f}]"
            ),
            f"{statistics.median(cpu):.1f} [{min(cpu):.1f}–{max(cpu):.1f}]",
        ]
    )
    for name, size in run.rss.items():
        if not name.startswith("coordinator"):
            rows.append([name, f"{size / 1e6:.0f}", f"{run.cpu_s.get(name, 0.0):.1f}"])
    unknown = f" Not known to this version: {', '.join(run.unknown)}." if run.unknown else ""
    settings = ", ".join(f"{name}={value}" for name, value in run.settings.items())
    return "\n\n".join(
        [
            "### Enterprise rehearsal",
            (
                f"Measured {run.started} by `python -m bench.enterprise`: "
                f"{run.coordinators} coordinators, {run.shards} shards, {run.agents:,} agents, "
                f"{run.items:,} items on one machine with {run.machine['cores']} cores. "
                f"Settings: {settings}.{unknown}"
            ),
            (
                f"All shards owned and followed after {run.settled_s:.0f} s, "
                f"{min(run.owns.values())} to {max(run.owns.values())} by each coordinator; "
                f"submitted and completed in {run.submit_and_work_s:.0f} s, one at a time "
                f"{run.rate:,.0f} items/s. NATS stored {run.stored_most / 1e6:,.0f} MB at most, "
                f"{run.stored / 1e6:,.0f} MB at the end. "
                f"Verified: {run.checked['completed']:,} completed, conservation "
                f"{run.checked['conservation']}."
            ),
            table(rows),
            forecast(run),
        ]
    )


def forecast(run: Rehearsal) -> str:
    """What machines would need, and how that follows."""
    mean = ITEMS_A_DAY / DAY_S
    peak = mean * PEAK_TIMES
    idle = (run.idle_nodes_percent + run.idle_nats_percent) / 100
    cores = [idle + rate * run.core_s_per_item for rate in (mean, peak)]
    biggest = max(size for name, size in run.rss.items() if name.startswith("coordinator"))
    per_item = run.stored / run.items
    network = run.network / run.items
    rows = [
        ["for 1,000,000 items a day", "forecast", "computed as"],
        [
            f"CPU, evenly over the day ({mean:.1f}/s)",
            f"{cores[0]:.2f} cores in all",
            (
                f"idle CPU ({idle:.2f} cores) + rate × CPU an item "
                f"({run.core_s_per_item * 1e6:.0f} µs: coordinators, router, NATS)"
            ),
        ],
        [
            f"CPU in an hour {PEAK_TIMES} times as busy ({peak:.0f}/s)",
            f"{cores[1]:.2f} cores in all",
            "the same",
        ],
        [
            "memory of a coordinator",
            f"{biggest / 1e6:.0f} MB",
            f"the largest here; up to {max(run.owns.values())} shards owned, and others followed",
        ],
        [
            "memory of nats-server",
            f"{run.rss.get('nats', 0) / 1e6:.0f} MB",
            "the most here, one server; a cluster keeps it on each of three",
        ],
        [
            f"disk of NATS, {RETENTION_DAYS} days of finished items",
            f"{per_item * ITEMS_A_DAY * RETENTION_DAYS / 1e9:.1f} GB a replica",
            f"bytes stored an item at the end ({per_item:.0f}) × items × days",
        ],
        [
            f"network in that hour ({peak:.0f}/s)",
            f"{peak * network * 8 / 1e6:.1f} Mbit/s",
            f"bytes to and from nats-server an item ({network:,.0f}) × rate; replicas add theirs",
        ],
    ]
    return (
        f"{table(rows)}\n\nA forecast, not a measurement: it takes the cost of an item on this "
        "machine, where all processes shared its cores, for that on others."
    )


# --- the soak --------------------------------------------------------------------------------


class Sample(Struct):
    """One window."""

    #: Since the start.
    at_s: float
    rss: dict[str, int]
    start_p50_ms: float
    start_p99_ms: float
    durable_p99_ms: float
    completed: int


class Soak(Struct):
    """A steady load for long."""

    started: str
    minutes: float
    rate: float
    agents: int
    settings: Settled
    samples: list[Sample]
    checked: dict[str, int]
    machine: Machine


#: What the line through the second half may rise over it, of the resident set or in bytes.
RISE_PART = 0.05
RISE_BYTES = 5_000_000
#: p99 of the last third, against the first.
P99_TIMES = 1.5
P99_MORE_MS = 5.0


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line through the points; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    xs, ys = zip(*points, strict=True)
    return statistics.linear_regression(xs, ys).slope


class Verdict(Struct):
    """Of one process, or of the latency."""

    what: str
    shown: str
    flat: bool


def verdicts(soak: Soak) -> list[Verdict]:
    """Flat or not, one by one."""
    half = soak.samples[len(soak.samples) // 2 :]
    found = []
    for name in half[0].rss:
        points = [(sample.at_s, float(sample.rss[name])) for sample in half]
        rise = slope(points) * (points[-1][0] - points[0][0])
        most = max(RISE_BYTES, RISE_PART * points[0][1])
        found.append(
            Verdict(
                f"memory of {name}",
                f"{points[0][1] / 1e6:.0f} MB, {slope(points) * 3600 / 1e6:+.2f} MB an hour",
                rise < most,
            )
        )
    third = max(1, len(soak.samples) // 3)
    first, last = (
        statistics.median(sample.start_p99_ms for sample in part)
        for part in (soak.samples[:third], soak.samples[-third:])
    )
    found.append(
        Verdict(
            "submit → start, p99",
            f"{first:.1f} ms in the first third, {last:.1f} ms in the last",
            last < P99_TIMES * first + P99_MORE_MS,
        )
    )
    return found


def of_soak(soak: Soak) -> str:
    """For the README."""
    found = verdicts(soak)
    rows = [["what", "seen", ""]]
    rows += [[v.what, v.shown, "flat" if v.flat else "**not flat**"] for v in found]
    settings = ", ".join(f"{name}={value}" for name, value in soak.settings.items())
    return "\n\n".join(
        [
            "### Soak",
            (
                f"Measured {soak.started} by `python -m bench.soak`: {soak.rate:g} items/s for "
                f"{soak.minutes:g} minutes to {soak.agents} agents, {settings}; "
                f"{soak.checked['completed']:,} completed, conservation "
                f"{soak.checked['conservation']}."
            ),
            table(rows),
            (
                "Memory is flat when the straight line through the second half rises by less "
                f"than {RISE_PART:.0%} or {RISE_BYTES / 1e6:.0f} MB; by then what is remembered on "
                "purpose (answers, finished items) has reached its bounds. Latency is flat when "
                f"the last third stays below {P99_TIMES} × the first + {P99_MORE_MS:.0f} ms."
            ),
        ]
    )


# --- one shard, the profile ----------------------------------------------------------------------


def of_shard_life(life: Life) -> str:
    """For the README."""
    cores = life.machine.get("cores", "?")
    return (
        "### A million items in one shard\n\n"
        f"By `python -m bench.shard_life`, {cores} cores, sync before every acknowledgement:\n\n"
        f"```\n{tell(life)}\n```"
    )


T = TypeVar("T")


def told(folder: Path) -> list[str]:
    """What is recorded below `folder`, in Markdown."""
    return [
        _told(folder / SHARD_LIFE, Life, of_shard_life),
        _told(folder / ENTERPRISE, Rehearsal, of_rehearsal),
        _told(folder / SOAK, Soak, of_soak),
        profile(),
    ]


def profile() -> str:
    """Where the time goes, as `bench/profile.md` tells it, one level of headings down."""
    path = HERE / "profile.md"
    if not path.exists():
        return ""
    return re.sub(r"^#", "##", path.read_text("utf-8").strip(), flags=re.MULTILINE)


def _told(path: Path, shape: type[T], write: Callable[[T], str]) -> str:
    if not path.exists():
        return ""
    return write(msgspec.json.decode(path.read_bytes(), type=shape))


def store(result: Struct, path: Path) -> None:
    """Write one of them, for people, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
