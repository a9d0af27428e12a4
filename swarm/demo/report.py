"""What the demo tells at its end: real findings, how fast it was, and the verdict.

How the figures are measured (all on one machine's wall clock):

- *items/s*: the items of the backlog, by the time from just before its submission to the
  log's stamp on the last completion among them.  Submitting is part of that time.
- *submit → start*: from just before the client sends an item to the moment its handler's
  first line runs, as the handler recorded it.  *Free agents*: items submitted one at a
  time, the next only when the result of the one before has arrived.  *Backlog*: all the
  others, submitted at once; here the time is mostly spent waiting for an agent.
- percentiles are nearest-rank: p99 of 200 items is the 198th smallest value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from swarm.demo.findings import Audit
from swarm.testing.history import Execution, History, Report

#: Rows of a table of findings.
TOP = 8
#: Findings of the checker that are shown.
SHOWN_MAX = 20


class Starts(Struct, frozen=True):
    """Times from submit to start, in milliseconds."""

    items: int
    p50_ms: float
    p99_ms: float


class Killed(Struct, frozen=True):
    """The coordinator that was killed in the middle of the work."""

    coordinator: str
    shards: int
    sessions: int
    #: The longest that one of its shards stood still.
    pause_s: float


class Summary(Struct):
    """All that a run of the demo has shown."""

    #: By work type, one for each file.
    audits: dict[str, list[Audit]]
    report: Report
    items: int
    items_per_s: float
    free: Starts
    backlog: Starts
    #: From the start of the first process to readiness.
    ready_s: float
    total_s: float
    killed: Killed | None = None

    @property
    def ok(self) -> bool:
        """Whether the check passed and every item was completed."""
        return self.report.ok and self.report.completed == self.items

    def line(self) -> dict[str, float | int | str]:
        """The last line of ``--json``."""
        line: dict[str, float | int | str] = {
            "items": self.items,
            "completed": self.report.completed,
            "lost": self.report.lost,
            "held_twice": self.report.held_twice,
            "items_per_s": round(self.items_per_s, 1),
            "p99_start_ms": round(self.free.p99_ms, 2),
        }
        if self.killed is not None:
            line["killed"] = self.killed.coordinator
            line["longest_pause_s"] = round(self.killed.pause_s, 3)
        return line


# --- measuring -------------------------------------------------------------------------


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that `percent` of all do not exceed; 0 without any."""
    if not sorted_values:
        return 0.0
    rank = math.ceil(len(sorted_values) * percent / 100)
    return sorted_values[max(rank, 1) - 1]


def starts(sent: Mapping[str, float], executions: Iterable[Execution]) -> Starts:
    """How long each item of `sent` (id -> when its submission was sent) took to start."""
    first: dict[str, float] = {}
    for run in executions:
        if run.work_item_id in sent:
            first[run.work_item_id] = min(run.start, first.get(run.work_item_id, math.inf))
    waits_ms = sorted(1000 * (start - sent[name]) for name, start in first.items())
    return Starts(len(waits_ms), percentile(waits_ms, 50), percentile(waits_ms, 99))


def items_per_s(sent: Mapping[str, float], history: History) -> float:
    """Completions of the items in `sent` per second, by the log's stamps."""
    ended = [
        hold.ended_time
        for name in sent
        if (life := history.items.get(name)) is not None
        for hold in life.holds
        if hold.ending == "completed"
    ]
    if not ended:
        return 0.0
    took_s = max(ended) - min(sent.values())
    return len(ended) / took_s if took_s > 0 else 0.0


# --- showing ----------------------------------------------------------------------------


def render(summary: Summary) -> Group:
    """Tables for people."""
    parts: list[Table | Text] = [
        _suspicious(summary.audits.get("suspicious", [])),
        _undocumented(summary.audits.get("undocumented", [])),
        _complexity(summary.audits.get("complexity", [])),
    ]
    unreadable = _unreadable(summary.audits)
    if unreadable:
        parts.append(unreadable)
    if summary.killed is not None:
        return Group(*parts, _speed(summary), _chaos(summary.killed), _verdict(summary))
    return Group(*parts, _speed(summary), _verdict(summary))


def show(summary: Summary, console: Console) -> None:
    """Print `render`."""
    console.print(render(summary))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for column in columns:
        number = column in ("findings", "of", "paths", "line", "how often")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _suspicious(audits: list[Audit]) -> Table:
    kinds: dict[str, int] = {}
    for audit in audits:
        for kind, count in audit.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
    total = sum(kinds.values())
    table = _table(f"Suspicious constructs: {total:,}", "kind", "how often", "most in", "line")
    for kind, count in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]:
        worst = max(audits, key=lambda audit: audit.kinds.get(kind, 0))
        line = next((found.line for found in worst.findings if found.what == kind), 0)
        table.add_row(kind, f"{count:,}", worst.file, str(line or ""))
    return table


def _undocumented(audits: list[Audit]) -> Table:
    total, public = sum(a.count for a in audits), sum(a.looked_at for a in audits)
    title = f"Public names without a docstring: {total:,} of {public:,}"
    table = _table(title, "file", "findings", "of", "first")
    for audit in sorted(audits, key=lambda audit: (-audit.count, audit.file))[:TOP]:
        if audit.count:
            first = audit.findings[0]
            where = f"{first.what} (line {first.line})"
            table.add_row(audit.file, f"{audit.count:,}", f"{audit.looked_at:,}", where)
    return table


def _complexity(audits: list[Audit]) -> Table:
    total, functions = sum(a.count for a in audits), sum(a.looked_at for a in audits)
    title = f"Functions with more than 10 paths: {total:,} of {functions:,}"
    table = _table(title, "function", "paths", "file", "line")
    worst = sorted(
        ((found, audit.file) for audit in audits for found in audit.findings),
        key=lambda pair: (-pair[0].score, pair[1], pair[0].line),
    )
    for found, file in worst[:TOP]:
        table.add_row(found.what, str(found.score), file, str(found.line))
    return table


def _unreadable(audits: Mapping[str, list[Audit]]) -> Text | None:
    """Each such file once, though all audits met it."""
    why = {a.file: a.unreadable for of_type in audits.values() for a in of_type if a.unreadable}
    if not why:
        return None
    files = sorted(why)
    lines = [f"{len(files)} files could not be audited:"]
    lines += [f"  {file}: {why[file]}" for file in files[:TOP]]
    if len(files) > TOP:
        lines.append(f"  and {len(files) - TOP} more")
    return Text("\n".join(lines))


def _speed(summary: Summary) -> Text:
    free, backlog = summary.free, summary.backlog
    return Text(
        f"\n{summary.items:,} items in {summary.total_s:.1f} s, "
        f"of which {summary.ready_s:.1f} s to start the swarm; "
        f"{summary.items_per_s:,.0f} items/s\n"
        f"submit → start with free agents: p50 {free.p50_ms:.1f} ms, p99 {free.p99_ms:.1f} ms "
        f"({free.items:,} items, one at a time)\n"
        f"submit → start in the backlog: p50 {backlog.p50_ms / 1000:.1f} s, "
        f"p99 {backlog.p99_ms / 1000:.1f} s ({backlog.items:,} items at once, waiting included)"
    )


def _chaos(killed: Killed) -> Text:
    return Text(
        f"\n{killed.coordinator} was killed (-9) in the middle of the work: it owned "
        f"{killed.shards} shards and served {killed.sessions} agents\n"
        f"the longest that one of its shards stood still: {killed.pause_s:.2f} s"
    )


def _verdict(summary: Summary) -> Text:
    report = summary.report
    verdict = "passed" if summary.ok else "FAILED"
    figures = {
        "acknowledged": report.acknowledged,
        "in the log": report.submitted,
        "completed": report.completed,
        "failed": report.dead,
        "not ended": report.unended,
        "lost": report.lost,
        "held twice": report.held_twice,
        "completed without a record": report.unrecorded,
        "contradictions": report.contradictions,
        "handler runs": report.executions,
        "begun after their claim had ended": report.late_starts,
    }
    lines = [f"\ncheck {verdict}: handlers' records, clients' acknowledgements and log, joined"]
    lines.append("  " + ", ".join(f"{name} {count:,}" for name, count in figures.items()))
    lines += [f"  {finding}" for finding in report.findings[:SHOWN_MAX]]
    if len(report.findings) > SHOWN_MAX:
        lines.append(f"  and {len(report.findings) - SHOWN_MAX} more findings")
    return Text("\n".join(lines), style="green" if summary.ok else "bold red")
