"""Tables for people, and the part of README.md that a run rewrites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import goals, long_runs
from bench.cells import figures_cell, heading, rates_cell
from bench.child import Failed
from bench.peers.report import of_peers
from bench.plan import (
    LIMIT,
    MATRIX,
    NO_SYNC,
    OURS,
    OURS_16,
    PLAIN,
    SERVERS,
    SYNC,
    SYSTEMS,
    System,
)
from bench.plots import PLOTS
from bench.results import (
    Results,
    Section,
    Session,
    chosen,
    cpu_us,
    figure,
    figures,
    gate,
    ratios,
    spread,
    verified,
)
from bench.tables import of_spread, table

BEGIN = "<!-- results: written by `make bench` -->"
END = "<!-- end of results -->"
TITLES = {
    "throughput.png": "Items claimed and completed a second, beside the peers",
    "latency.png": "Milliseconds from submission to the agent, against the rate",
    "queue.png": "Cost of an item against the length of the queue",
    "agents.png": "What idle agents cost their coordinator",
    "shards.png": "Cost of an item against coordinators and shards",
}
ROLES = ("system", "load", "nats")
PAIRS: tuple[tuple[System, System], ...] = (
    (OURS, LIMIT),
    (OURS_16, LIMIT),
    (OURS, PLAIN),
    (LIMIT, PLAIN),
)


def rewrite(source: Path, target: Path, folder: Path, results: Results) -> None:
    """`source`'s text with the part between the marks replaced goes to `target`.

    `folder`: where the results lie, those of the rehearsal and the soak among them.  Pictures
    are those in `plots` beside `target`.
    """
    parts = [sections(results, target.parent / "plots"), *long_runs.told(folder)]
    replaced(source, target, "\n\n".join(part for part in parts if part))


def show_pictures(readme: Path, plots: Path) -> None:
    """The pictures that there are, between the marks of a README that shows nothing else."""
    shown = [picture(name, plots, readme.parent) for name in TITLES]
    replaced(readme, readme, "\n\n".join(line for line in shown if line))


def replaced(source: Path, target: Path, body: str) -> None:
    """`source`'s text with `body` between the marks goes to `target`; raises `Failed`."""
    text = source.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failed(f"{source.name} lacks the marks {BEGIN} and {END}; put them back")
    target.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", "utf-8")


def picture(name: str, plots: Path, seen_from: Path) -> str:
    """A picture in Markdown; "" where it was not drawn."""
    if not (plots / name).exists():
        return ""
    return f"![{TITLES[name]}]({(plots / name).relative_to(seen_from).as_posix()})"


def sections(results: Results, plots: Path | None = None) -> str:
    """Everything that was measured, in Markdown."""
    parts = [goals_table(results)]
    for name, write in WRITERS.items():
        if name in results.sections:
            parts.append(write(results.sections[name]))
            if plots is not None:
                pictures = [file for file, (section, _) in PLOTS.items() if section == name]
                parts += [picture(file, plots, plots.parent) for file in pictures]
    return "\n\n".join(part for part in parts if part)


def goals_table(results: Results) -> str:
    """What was to be reached, and what was."""
    reached = goals.reached(results)
    if not reached:
        return ""
    rows = [["to reach", "wanted", "measured", ""]]
    rows += [[g.what, g.wanted, g.measured, "reached" if g.met else "**missed**"] for g in reached]
    return f"### What was to be reached\n\n{table(rows)}"


# --- throughput -----------------------------------------------------------------------------


def of_rates(section: Section) -> str:
    """Items a second, ratios, CPU."""
    parts = [heading("Throughput", section)]
    measured = {session.server for session in section.sessions}
    for server, how in SERVERS.items():
        if server not in measured:
            continue
        parts += [
            f"Items a second with `{how}`: median, [least–most].",
            _by_system(section, server, rates_cell),
            "Ratios of two sessions of one round: median, [least–most].",
            _ratios_table(section, server),
            "CPU microseconds an item, medians: system's process / load's / nats-server's.",
            _by_system(section, server, _cpu),
        ]
    if measured >= set(SERVERS):
        parts += ["With a sync before every acknowledgement, against without:"]
        parts += [_sync_table(section)]
    gates = ", ".join(f"{gate(section, server):.1f} × ({server})" for server in sorted(measured))
    parts.append(f"The limit loop with 200 agents over plain nats-py: {gates}. {_told(section)}")
    return "\n\n".join(parts)


def _told(section: Section) -> str:
    done = verified(section.sessions)
    return (
        f"Verified: in {done['sessions']} sessions of our system {done['submitted']:,} items were "
        f"submitted and {done['completed']:,} completed, each acknowledged once; "
        f"{done['queued']:,} are queued, as they must be, {done['dead']} dead; conservation "
        f"{done['conservation']}."
    )


def _by_system(section: Section, server: str, shown: Callable[[list[Session]], str]) -> str:
    rows = [["workload", *(system.title for system in SYSTEMS)]]
    for workload, on, _ in MATRIX:
        if on != server:
            continue
        found = [chosen(section, s.name, workload.name, server) for s in SYSTEMS]
        if any(found):
            rows.append([workload.title, *(shown(cell) if cell else "–" for cell in found)])
    return table(rows)


def _cpu(sessions: list[Session]) -> str:
    used = cpu_us(sessions)
    return " / ".join(f"{used[role]:.0f}" if role in used else "–" for role in ROLES)


def _ratios_table(section: Section, server: str) -> str:
    rows = [["workload", *(f"{above.title} / {below.title}" for above, below in PAIRS)]]
    for workload, on, _ in MATRIX:
        if on != server:
            continue
        cells = [
            of_spread(
                spread(
                    ratios(
                        chosen(section, above.name, workload.name, server),
                        chosen(section, below.name, workload.name, server),
                    )
                ),
                lambda value: f"{value:.2f}",
            )
            for above, below in PAIRS
        ]
        if any(cell != "–" for cell in cells):
            rows.append([workload.title, *cells])
    return table(rows)


def _sync_table(section: Section) -> str:
    rows = [["workload", *(system.title for system in SYSTEMS)]]
    for workload, on, _ in MATRIX:
        if on != NO_SYNC:
            continue
        cells = [
            of_spread(
                spread(
                    ratios(
                        chosen(section, system.name, workload.name, SYNC),
                        chosen(section, system.name, workload.name, NO_SYNC),
                    )
                ),
                lambda value: f"{value:.2f}",
            )
            for system in SYSTEMS
        ]
        if any(cell != "–" for cell in cells):
            rows.append([workload.title, *cells])
    return table(rows)


# --- the others --------------------------------------------------------------------------------


def of_latency(section: Section) -> str:
    """By rate, and hosted."""
    columns = {
        "start, p50": "start_p50_ms",
        "p90": "start_p90_ms",
        "p99": "start_p99_ms",
        "most": "start_p100_ms",
        "durable, p50": "submit_p50_ms",
        "durable, p99": "submit_p99_ms",
    }
    rows = [["load", *columns]]
    for key in dict.fromkeys((s.workload, s.server, s.system) for s in section.sessions):
        name, server, system = key
        sessions = chosen(section, system, name, server)
        shards = "1 shard" if system == OURS.name else f"{OURS_16.shards} shards"
        title = f"{name.replace('at_', '')} items/s, {shards}"
        if name == "hosted":
            title = f"{section.settings['hosted_rate']:.0f} items/s, {shards}, hosted agents"
        cells = [
            of_spread(spread(figures(sessions, column)), lambda x: f"{x:.1f}")
            for column in columns.values()
        ]
        rows.append([f"{title}, {server}", *cells])
    hosted = [s for s in section.sessions if s.workload == "hosted"]
    hosting = (
        f"Hosted: {section.settings['hosted_agents']:,} agents of the SDK "
        f"in one process over {hosted[0].figures['connections']:.0f} connections: "
        f"{figures_cell(hosted, 'host_mb', '{:.0f}')} MB in all, "
        f"{figures_cell(hosted, 'kb_per_agent', '{:.0f}')} kB an agent, all attached after "
        f"{figures_cell(hosted, 'attached_s', '{:.1f}')} s."
        if hosted
        else ""
    )
    return "\n\n".join(
        part
        for part in [
            heading("Latency", section),
            (
                "Milliseconds from the time an item is due to be submitted, one a request, to the "
                "time its agent has it (start), and to its acknowledgement (durable); 1,000 agents "
                "attached and idle: median of the rounds, [least–most]."
            ),
            table(rows),
            hosting,
        ]
        if part
    )


def of_queue(section: Section) -> str:
    """By length."""
    rows = [["queued", "claim + complete/s", "of the shortest's", "CPU µs an item"]]
    groups = _groups(section)
    first = [s for s in section.sessions if s.workload == groups[0][0]]
    for name, _ in groups:
        sessions = [s for s in section.sessions if s.workload == name]
        share = of_spread(spread(ratios(sessions, first)), lambda value: f"{value:.2f}")
        rows.append([f"{int(name[6:]):,}", rates_cell(sessions), share, _cpu(sessions)])
    return "\n\n".join(
        [
            heading("Length of the queue", section),
            (
                "Claims one at a time by 200 agents from one shard that keeps its length: for each "
                "thousand completed a thousand are submitted."
            ),
            table(rows),
        ]
    )


def of_idle(section: Section) -> str:
    """By number of agents."""
    rows = [["agents", "coordinator, % of a core", "MB", "nats-server, %"]]
    for name, _ in _groups(section):
        sessions = [s for s in section.sessions if s.workload == name]
        cells = [
            of_spread(spread(figures(sessions, column)), lambda x: f"{x:.1f}")
            for column in ("system_cpu_percent", "system_mb", "nats_cpu_percent")
        ]
        rows.append([name[5:], *cells])
    return "\n\n".join(
        [
            heading("Idle agents", section),
            (
                "Attached, with a free slot, sending heartbeats; nothing to do. One process is "
                "coordinator of 16 shards and router."
            ),
            table(rows),
        ]
    )


def of_scale(section: Section) -> str:
    """By size."""
    parts = [
        heading("Coordinators and shards", section),
        (
            "CPU time of real node processes, one standby a shard, with 1,000 agents that "
            "complete one item at a time; what the nodes use at rest is part of it. All share "
            "the cores of one machine."
        ),
        _sizes(section, "scale_", "coordinators"),
    ]
    if any(session.workload.startswith("apart_") for session in section.sessions):
        parts += [
            (
                "The same work by swarms of one coordinator each, which share nothing but the "
                "machine and nats-server (a router in the same process, no standby, no slots "
                "moved): what so many processes cost here by themselves."
            ),
            _sizes(section, "apart_", "swarms"),
        ]
    return "\n\n".join(parts)


def _sizes(section: Section, kind: str, of_what: str) -> str:
    rows = [
        [
            of_what,
            "shards",
            "nodes + NATS, µs an item",
            "of the smallest's",
            "NATS alone, µs",
            "agents' process, µs",
            "items/s",
            "at rest, % of a core",
        ]
    ]
    names = [name for name, _ in _groups(section) if name.startswith(kind)]
    first = [s for s in section.sessions if s.workload in names[:1]]
    for name in names:
        sessions = [s for s in section.sessions if s.workload == name]
        _, coordinators, shards = name.split("_")
        share = of_spread(
            spread(ratios(sessions, first, figure("cost_us"))), lambda value: f"{value:.2f}"
        )
        cells = [
            of_spread(spread(figures(sessions, column)), lambda x: f"{x:.0f}")
            for column in ("cost_us", "nats_us", "load_us")
        ]
        rest = of_spread(spread(figures(sessions, "rest_percent")), lambda x: f"{x:.0f}")
        row = [
            coordinators,
            shards,
            cells[0],
            share,
            cells[1],
            cells[2],
            rates_cell(sessions),
            rest,
        ]
        rows.append(row)
    return table(rows)


def _groups(section: Section) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.workload, s.server) for s in section.sessions))


WRITERS: dict[str, Callable[[Section], str]] = {
    "rates": of_rates,
    "peers": of_peers,
    "latency": of_latency,
    "queue": of_queue,
    "idle": of_idle,
    "scale": of_scale,
}
