"""Recording a run that is made apart from the sections."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from bench import long_runs, report, results

HERE = Path(__file__).resolve().parent


def record(run: Struct, name: str, out: Path | None, *, full: bool) -> str:
    """Write it below `out`, else among the recorded results if it is `full`; says where."""
    if out is None and not full:
        return "Not recorded: only a full run replaces the recorded one; use --out."
    home = HERE if out is None else out
    folder = HERE / "results" if out is None else out
    long_runs.store(run, folder / name)
    recorded = results.load(folder / "latest.json")
    report.rewrite(HERE / "README.md", home / "README.md", folder, recorded)
    return f"Written: {folder / name} and {home / 'README.md'}"
