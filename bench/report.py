"""Tables for people, and the section of README.md that a run rewrites."""

from __future__ import annotations

from pathlib import Path

from bench.child import Failed
from bench.plan import LIMIT_OVER_PLAIN_MIN, SYSTEMS, WORKLOADS, Workload
from bench.results import PAIRS, Run, Spread, cpu_us

BEGIN = "<!-- results: written by `make bench` -->"
END = "<!-- end of results -->"
ROLES = ("system", "load", "nats")


def write_section(readme: Path, run: Run) -> str:
    """`readme`'s text with the section between the marks replaced."""
    text = readme.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failed(f"{readme.name} lacks the marks {BEGIN} and {END}; put them back")
    return f"{before}{BEGIN}\n\n{section(run)}\n{END}{after}"


def section(run: Run) -> str:
    """Everything about a run, in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    settings = ", ".join(f"{name} {value}" for name, value in run.settings.items())
    return "\n".join(
        [
            f"Run of {run.started}, {run.took_s:.0f} s, by `{run.command}`.",
            "",
            f"Machine: {machine}.",
            "",
            f"Settings: {settings}.",
            "",
            "Items a second: median of the rounds, [least–most].",
            "",
            rates_table(run),
            "",
            "Ratios, each of two neighbouring sessions of one round: median, [least–most].",
            "",
            ratios_table(run),
            "",
            "CPU microseconds an item, medians: system's process / load's / nats-server's.",
            "",
            cpu_table(run),
            "",
            verdict(run),
            "",
            noise(run),
            "",
        ]
    )


def noise(run: Run) -> str:
    """How disturbed the machine was."""
    probes = sorted(session.probe_ms for session in run.sessions)
    return (
        f"A fixed loop before each session took {probes[0]:.0f}–{probes[-1]:.0f} ms (median "
        f"{probes[len(probes) // 2]:.0f}): the wider this range, the less the figures say."
    )


def verdict(run: Run) -> str:
    """Whether the run counts, and what was verified."""
    done = run.verified
    verified = (
        f"Verified: in {done['sessions']} sessions of our system {done['submitted']:,} items were "
        f"submitted and {done['completed']:,} completed, each acknowledged once; "
        f"{done['queued']:,} are queued, as they must be (submit only), {done['claimed']} claimed, "
        f"{done['dead']} dead; conservation {done['conservation']}."
    )
    reached = f"The limit loop with 200 agents reached {run.gate:.1f} × plain nats-py"
    if run.quick:
        return f"{reached}; a quick run is too small to be judged. {verified}"
    if run.void:
        return f"**VOID**: {reached}, less than {LIMIT_OVER_PLAIN_MIN} ×. {verified}"
    return f"{reached} (a run counts from {LIMIT_OVER_PLAIN_MIN} × on). {verified}"


def rates_table(run: Run) -> str:
    """Systems across, workloads down."""
    rows = [["workload", *(system.title for system in SYSTEMS)]]
    for workload in _workloads(run):
        cells = [run.rates.get(system.name, {}).get(workload.name) for system in SYSTEMS]
        rows.append([workload.title, *(_rate(cell) for cell in cells)])
    return _table(rows)


def ratios_table(run: Run) -> str:
    """Pairs across, workloads down."""
    rows = [["workload", *(f"{above.title} / {below.title}" for above, below in PAIRS)]]
    for workload in _workloads(run):
        row = [workload.title]
        for above, below in PAIRS:
            ratios = run.ratios.get(f"{above.name}/{below.name}", {}).get(workload.name)
            median = run.ratio_medians.get(f"{above.name}/{below.name}", {}).get(workload.name)
            shown = f"{median:.2f} [{min(ratios):.2f}–{max(ratios):.2f}]" if ratios else "–"
            row.append(shown)
        rows.append(row)
    return _table(rows)


def cpu_table(run: Run) -> str:
    """Systems across, workloads down."""
    rows = [["workload", *(system.title for system in SYSTEMS)]]
    for workload in _workloads(run):
        row = [workload.title]
        for system in SYSTEMS:
            used = cpu_us(run, system, workload)
            shown = " / ".join(f"{used[role]:.0f}" if role in used else "–" for role in ROLES)
            row.append(shown if used else "–")
        rows.append(row)
    return _table(rows)


def _workloads(run: Run) -> list[Workload]:
    names = {session.workload for session in run.sessions}
    return [workload for workload in WORKLOADS if workload.name in names]


def _rate(cell: Spread | None) -> str:
    if cell is None:
        return "–"
    return f"{_round(cell.median)} [{_round(cell.least)}–{_round(cell.most)}]"


def _round(rate: float) -> str:
    """Three digits that mean something."""
    unit = 10 ** max(0, len(str(int(rate))) - 3)
    return f"{round(rate / unit) * unit:,}"


def _table(rows: list[list[str]]) -> str:
    """A Markdown table that also reads well as it stands."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
