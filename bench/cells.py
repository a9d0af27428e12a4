"""What headings and cells of the tables say of a section's sessions."""

from __future__ import annotations

import statistics

from bench.results import Section, Session, figures, rate, spread
from bench.tables import of_spread, rounded


def heading(title: str, section: Section) -> str:
    """When, where and how."""
    machine = ", ".join(f"{name} {value}" for name, value in section.machine.items())
    settings = "; ".join(f"{name}: {value}" for name, value in section.settings.items())
    probes = sorted(session.probe_ms for session in section.sessions)
    void = f"\n\n**VOID**: {section.void}." if section.void else ""
    quick = " A quick run, too small to be judged." if section.quick else ""
    return (
        f"### {title}\n\n"
        f"Measured {section.started}, {section.took_s:.0f} s, {section.rounds} rounds, by "
        f"`{section.command}`.{quick}{void}\n\n"
        f"<details><summary>Machine and settings</summary>\n\n"
        f"Machine: {machine}. A fixed loop before each session took {probes[0]:.0f}–"
        f"{probes[-1]:.0f} ms (median {statistics.median(probes):.0f}): the wider this range, the "
        f"less the figures say.\n\n{settings}.\n\n</details>"
    )


def rates_cell(sessions: list[Session]) -> str:
    """Items a second: median and range."""
    return of_spread(spread(map(rate, sessions)), rounded)


def figures_cell(sessions: list[Session], name: str, shown: str) -> str:
    """The median of a figure, by this format; a dash where nobody has it."""
    values = figures(sessions, name)
    return shown.format(statistics.median(values)) if values else "–"
