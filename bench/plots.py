"""Pictures of the results, for the README.  Needs matplotlib: `pip install -e '.[bench]'`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.plan import PEERS
from bench.plan import LIMIT, NO_SYNC, ONE_200, OURS, OURS_16, PLAIN, SYNC
from bench.results import (
    Figure,
    Results,
    Section,
    Session,
    Spread,
    chosen,
    cpu_us,
    figure,
    rate,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Ours stands out; the others are grey; a second series of ours is lighter.
OURS_COLOUR, LIGHT, GREY, DARK = "#0b6e4f", "#7fb7a3", "#9aa0a6", "#4a4f54"
COLOURS = (LIGHT, OURS_COLOUR, GREY, DARK)
SIZE = (7.2, 3.9)
DPI = 150


def draw(results: Results, folder: Path) -> str:
    """Draw every section that is there; says where, or why not."""
    try:
        import matplotlib  # noqa: PLC0415 - an extra
    except ImportError:
        return "no plots (matplotlib is not installed: pip install -e '.[bench]')"
    matplotlib.use("agg")
    matplotlib.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "svg.hashsalt": "swarm",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        name
        for name, (section, paint) in PLOTS.items()
        if section in results.sections and _picture(results.sections[section], paint, folder / name)
    ]
    return f"{folder} ({', '.join(drawn)})" if drawn else "no plots: nothing to draw"


def _picture(section: Section, paint: Callable[[Section, Axes], bool], path: Path) -> bool:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - an extra

    canvas, axes = plt.subplots(figsize=SIZE)
    if not paint(section, axes):
        plt.close(canvas)
        return False
    note = f"{section.machine.get('cpu', '')}, {section.machine.get('cores', '?')} cores shared "
    note += f"with the load; median and range of {section.rounds} rounds; {section.started[:10]}"
    canvas.text(0.01, 0.012, note, fontsize=7, color=GREY)
    canvas.tight_layout(rect=(0, 0.035, 1, 1))
    # No metadata that changes by itself: the same results give the same file.
    canvas.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(canvas)
    return True


# --- throughput beside peers ---------------------------------------------------------------------


def throughput(section: Section, axes: Axes) -> bool:
    """A bar for every system and what keeps its items."""
    bars: list[tuple[str, Spread, str]] = []
    titles = {OURS.name: "ours", LIMIT.name: "limit loop (no logic)", PLAIN.name: "plain nats-py"}
    titles |= {peer.name: peer.title for peer in PEERS}
    places = {NO_SYNC: "NATS", SYNC: "NATS, synced", "redis": "Redis"}
    for name, title in titles.items():
        for place, kept in places.items():
            cell = spread(map(rate, chosen(section, name, ONE_200.name, place)))
            if cell is not None:
                colour = GREY
                if name == OURS.name:
                    colour = OURS_COLOUR
                elif name == LIMIT.name:
                    colour = "#d5d8db"
                bars.append((f"{title} · {kept}", cell, colour))
    if not bars:
        return False
    bars.sort(key=lambda bar: bar[1].median)
    names, cells, colours = zip(*bars, strict=True)
    places_y = range(len(bars))
    axes.barh(
        places_y,
        [cell.median for cell in cells],
        xerr=_whiskers(cells),
        color=colours,
        error_kw={"ecolor": DARK, "elinewidth": 1, "capsize": 2},
    )
    axes.set_yticks(places_y, names)
    right = max(cell.most for cell in cells)
    for y, cell in zip(places_y, cells, strict=True):
        axes.text(cell.most + right * 0.01, y, _short(cell.median), va="center", fontsize=8)
    axes.set_xlim(0, right * 1.12)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value).replace(".0k", "k"))
    for label in axes.get_yticklabels():
        if label.get_text().startswith("ours"):
            label.set_fontweight("bold")
    axes.set_xlabel("items a second (more is better); synced: on the disk before any answer")
    axes.set_title("Claimed and completed, one at a time")
    return True


# --- latency -------------------------------------------------------------------------------------


def latency(section: Section, axes: Axes) -> bool:
    """p50 and p99 against the rate."""
    groups = _by_number(section, "at_", SYNC, OURS_16.name)
    if not groups:
        return False
    for name, label, colour in (
        ("start_p99_ms", "the agent has it, p99", OURS_COLOUR),
        ("start_p50_ms", "the agent has it, p50", LIGHT),
    ):
        _line(axes, groups, figure(name), label, colour)
    axes.set_xscale("log")
    axes.set_xticks(list(groups), [f"{number:,}" for number in groups])
    axes.minorticks_off()
    axes.set_xlabel("items submitted a second, one a request")
    axes.set_ylabel("milliseconds")
    axes.set_title("From submission to its agent: 1,000 agents, 16 shards, synced")
    _finish(axes)
    return True


# --- the queue's length --------------------------------------------------------------------------


def queue(section: Section, axes: Axes) -> bool:
    """CPU time an item against the number of queued items."""
    groups = _by_number(section, "queue_", SYNC)
    if not groups:
        return False
    for role, label, colour in (
        ("system", "coordinator", OURS_COLOUR),
        ("nats", "nats-server", GREY),
    ):
        _line(axes, groups, _cost(role), label, colour)
    axes.set_xscale("log")
    axes.set_xticks(list(groups), [f"{number:,}" for number in groups])
    axes.minorticks_off()
    axes.set_xlabel("items in the queue (one shard)")
    axes.set_ylabel("CPU µs per item claimed and completed")
    axes.set_title("Cost against the length of the queue")
    _finish(axes)
    return True


def _cost(role: str) -> Figure:
    return lambda session: cpu_us([session]).get(role, 0.0)


# --- agents --------------------------------------------------------------------------------------


def agents(section: Section, axes: Axes) -> bool:
    """CPU and memory of a coordinator against its idle agents."""
    groups = _by_number(section, "idle_", SYNC)
    if not groups:
        return False
    _line(axes, groups, figure("system_cpu_percent"), "CPU (left)", OURS_COLOUR)
    axes.set_ylabel("coordinator, % of one core")
    axes.set_xlabel("agents attached, waiting for work")
    axes.set_xticks(list(groups), [f"{number:,}" for number in groups])
    memory = axes.twinx()
    _line(memory, groups, figure("system_mb"), "memory (right)", GREY)
    memory.set_ylabel("coordinator, MB resident")
    memory.spines["right"].set_visible(True)
    memory.set_ylim(0, memory.get_ylim()[1] * 1.6)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    lines, labels = axes.get_legend_handles_labels()
    more_lines, more_labels = memory.get_legend_handles_labels()
    axes.legend(lines + more_lines, labels + more_labels, frameon=False, loc="lower right")
    axes.set_title("What idle agents cost their coordinator")
    return True


# --- coordinators and shards ---------------------------------------------------------------------


def shards(section: Section, axes: Axes) -> bool:
    """CPU time an item by size: a line for each number of shards."""
    of_size: dict[int, dict[int, list[Session]]] = {}
    for session in section.sessions:
        if "cost_us" in session.figures and session.workload.startswith("scale_"):
            coordinators, shard_count = map(int, session.workload.split("_")[1:])
            line = of_size.setdefault(shard_count, {})
            line.setdefault(coordinators, []).append(session)
    if not of_size:
        return False
    for (count, line), colour in zip(sorted(of_size.items()), COLOURS, strict=False):
        _line(axes, dict(sorted(line.items())), figure("cost_us"), f"{count} shards", colour)
    sizes = sorted({size for line in of_size.values() for size in line})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("coordinators")
    axes.set_ylabel("CPU µs per item,\ncoordinators + router + nats-server")
    axes.set_title("Cost against coordinators and shards")
    _finish(axes)
    return True


# --- what they share -----------------------------------------------------------------------------


def _by_number(
    section: Section, prefix: str, server: str, system: str = ""
) -> dict[int, list[Session]]:
    """The sessions of workloads like `queue_1000`, by that number."""
    found: dict[int, list[Session]] = {}
    for session in section.sessions:
        of_system = system in ("", session.system)
        if session.workload.startswith(prefix) and session.server == server and of_system:
            found.setdefault(int(session.workload.removeprefix(prefix)), []).append(session)
    return dict(sorted(found.items()))


def _line(
    axes: Axes,
    groups: dict[int, list[Session]],
    of: Figure,
    label: str,
    colour: str,
) -> None:
    cells = {number: spread(map(of, sessions)) for number, sessions in groups.items()}
    shown = {number: cell for number, cell in cells.items() if cell is not None}
    axes.errorbar(
        list(shown),
        [cell.median for cell in shown.values()],
        yerr=_whiskers(list(shown.values())),
        marker="o",
        markersize=5,
        color=colour,
        label=label,
        capsize=3,
        elinewidth=1,
    )


def _finish(axes: Axes) -> None:
    """From zero, with room above, a grid and a legend."""
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)


def _whiskers(cells: list[Spread] | tuple[Spread, ...]) -> list[list[float]]:
    """How far least and most are from the medians."""
    return [
        [cell.median - cell.least for cell in cells],
        [cell.most - cell.median for cell in cells],
    ]


def _short(value: float) -> str:
    return f"{value / 1000:,.1f}k" if value >= 1000 else f"{value:,.0f}"


#: By file name: section, and who paints it.
PLOTS: dict[str, tuple[str, Callable[[Section, Axes], bool]]] = {
    "throughput.png": ("peers", throughput),
    "latency.png": ("latency", latency),
    "queue.png": ("queue", queue),
    "agents.png": ("idle", agents),
    "shards.png": ("scale", shards),
}
