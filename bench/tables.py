"""Cells and tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable

from bench.results import Spread


def of_spread(cell: Spread | None, shown: Callable[[float], str]) -> str:
    """Median, [least–most]; – where there is nothing."""
    if cell is None:
        return "–"
    if cell.least == cell.most:
        return shown(cell.median)
    return f"{shown(cell.median)} [{shown(cell.least)}–{shown(cell.most)}]"


def rounded(value: float) -> str:
    """Three digits that mean something."""
    unit = 10 ** max(0, len(str(int(value))) - 3)
    return f"{round(value / unit) * unit:,}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table that also reads well as it stands."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
