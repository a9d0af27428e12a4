"""What a chaos run tells at its end: figures, faults, standstills, and whether it counts."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from swarm.testing.chaos import machine
from swarm.testing.chaos.machine import Busyness
from swarm.testing.chaos.plan import DECK, ESSENTIAL, LINK_KINDS, label
from swarm.testing.chaos.progress import NO_FAULT, Longest, Standstill, Window, longest, under_way
from swarm.testing.chaos.run import Traces
from swarm.testing.chaos.verdict import Verdict

#: Findings that are shown to people; the file has them all.
SHOWN_MAX = 20
#: Standstills that the file tells of.
STANDSTILLS = 30
#: A run with fewer completed items a second of faults has proven nothing.
ITEMS_PER_S_MIN = 2.0
#: From this length on logs must have been purged meanwhile.
PURGED_FROM_S = 170.0
#: And one in which fewer questions were answered than this part of the items.
ANSWERS_MIN = 0.2


class Stood(Struct):
    """A standstill."""

    #: Seconds after the first fault.
    at_s: float
    seconds: float
    #: -1: no item ended anywhere.
    shard: int
    faults: list[str]


class Summary(Struct):
    """All that a run has shown."""

    seed: int
    #: What machine, which versions.
    machine: dict[str, str]
    busyness: Busyness
    #: Wall clock of the first moment of the plan; times of standstills count from here.
    began: float
    #: From then to the end of the last fault.
    minutes: float
    #: Until everything had ended, after the last fault.
    calm_s: float
    verdict: Verdict
    #: Entries that are in no log any more.
    purged: int
    #: By kind of fault: how often to whom.
    faults: dict[str, dict[str, int]]
    #: Kinds that this machine cannot do, and why; "" if it can do all.
    left_out: str
    #: By kind of fault.
    longest: dict[str, Longest]
    #: Longest of all.
    longest_overall: Longest
    #: The longest ones of any shard and of all, longest first.
    standstills: list[Stood]
    #: Seconds until a server said that it was well again, the longest.
    server_well_s: float
    #: How often a member began while it could not reach NATS, and was started again.
    unreached: int
    surprises: list[str]
    #: Why the run proves nothing, if so.
    void: list[str]

    @property
    def ok(self) -> bool:
        """Whether the run counts and every promise was kept."""
        return self.verdict.ok and not self.surprises and not self.void

    def line(self) -> dict[str, Any]:
        """As JSON."""
        report = self.verdict.report
        return {
            "ok": self.ok,
            "seed": self.seed,
            "machine": self.machine,
            "machine_lag_s": round(self.busyness.lag_s, 2),
            "machine_pressure": round(self.busyness.pressure, 2),
            "began": self.began,
            "minutes": round(self.minutes, 2),
            "calm_s": round(self.calm_s, 1),
            "items": report.submitted,
            "completed": report.completed,
            "dead": report.dead,
            "acknowledged": report.acknowledged,
            "given_up": self.verdict.given_up,
            "cancelled": report.cancelled,
            "executions": report.executions,
            "purged_entries": self.purged,
            "answers": self.verdict.answers,
            **violations(self.verdict),
            "faults": self.faults,
            "left_out": self.left_out,
            "longest_without_progress_s": round(self.longest_overall.overall_s, 2),
            "longest_without_progress_in_one_shard_s": round(self.longest_overall.shard_s, 2),
            "longest_by_fault": msgspec.to_builtins(self.longest),
            "standstills": msgspec.to_builtins(self.standstills),
            "server_well_after_s": round(self.server_well_s, 1),
            "members_that_could_not_reach_nats": self.unreached,
            "surprises": self.surprises,
            "void": self.void,
            "findings": self.verdict.findings,
        }


def violations(verdict: Verdict) -> dict[str, int]:
    """Every count that must be 0."""
    report = verdict.report
    return {
        "lost": report.lost,
        "held_twice": report.held_twice,
        "unrecorded": report.unrecorded,
        "not_ended": report.unended,
        "log_contradictions": report.contradictions,
        "stale_answers": verdict.stale,
        "wrong_answers": verdict.wrong,
        "doubled": verdict.doubled,
        "foreign_entries": verdict.foreign,
        "unbalanced": verdict.unbalanced,
        "claimed_too_early": verdict.too_early,
        "wrong_results": verdict.wrong_results,
    }


def summarize(
    seed: int, traces: Traces, verdict: Verdict, stills: list[Standstill], *, left_out: str
) -> Summary:
    """Put everything together, and see whether the run has proven anything."""
    faults: dict[str, dict[str, int]] = {}
    for done in traces.done:
        whom = faults.setdefault(done.label, {})
        on = " and ".join(done.on)
        whom[on] = whom.get(on, 0) + 1
    windows = [Window(one.label, one.start, one.end) for one in traces.done]
    found = longest(stills, windows)
    summary = Summary(
        seed=seed,
        machine=machine.describe(),
        busyness=traces.busyness,
        began=traces.faults_from,
        minutes=(traces.faults_to - traces.faults_from) / 60,
        calm_s=traces.calm_s,
        verdict=verdict,
        purged=traces.purged,
        faults=faults,
        left_out=left_out,
        longest=dict(found),
        longest_overall=Longest(
            max((one.overall_s for one in found.values()), default=0.0),
            max((one.shard_s for one in found.values()), default=0.0),
        ),
        standstills=_standstills(stills, windows, traces.faults_from),
        server_well_s=max((one.well_after_s for one in traces.done), default=0.0),
        unreached=traces.unreached,
        surprises=list(traces.surprises),
        void=list(traces.void),
    )
    summary.void += proven_nothing(summary, traces)
    summary.surprises += [
        f"{', '.join(one.on)} did not get well after: {one.label}"
        for one in traces.done
        if one.well_after_s < 0
    ]
    return summary


def _standstills(stills: list[Standstill], windows: list[Window], began: float) -> list[Stood]:
    return [
        Stood(
            round(still.start - began, 2),
            round(still.seconds, 2),
            still.shard,
            under_way(still, windows),
        )
        for still in sorted(stills, key=lambda still: -still.seconds)[:STANDSTILLS]
    ]


def proven_nothing(summary: Summary, traces: Traces) -> list[str]:
    """Why the run would pass whatever the swarm did; [] if it would not."""
    why = []
    seconds = traces.faults_to - traces.faults_from
    report = summary.verdict.report
    if report.completed < ITEMS_PER_S_MIN * seconds:
        why.append(
            f"too few items: {report.completed} were completed in {seconds:.0f} s of faults, "
            f"at least {ITEMS_PER_S_MIN * seconds:.0f} are wanted"
        )
    if summary.verdict.answers < ANSWERS_MIN * report.submitted:
        why.append(f"too few answers: {summary.verdict.answers} for {report.submitted} items")
    wanted = wanted_kinds(links=not summary.left_out) | {fault.label for fault in traces.plan}
    if seconds > PURGED_FROM_S and not traces.purged:
        why.append("no log was purged")
    missing = sorted(wanted - set(summary.faults))
    return why + [f"a kind of fault never happened: {kind}" for kind in missing]


def wanted_kinds(*, links: bool) -> set[str]:
    """What every run must have shown."""
    cards = [card for card in ESSENTIAL if links or card.kind not in LINK_KINDS]
    return {label(card.kind, card.role, card.pick) for card in cards}


def all_kinds() -> list[str]:
    """Every kind of fault, in the order of the deck."""
    return list(dict.fromkeys(label(card.kind, card.role, card.pick) for card in DECK))


# --- for people ----------------------------------------------------------------------------


def render(summary: Summary) -> Group:
    """Tables."""
    parts: list[Table | Text] = [_figures(summary), _faults(summary)]
    if summary.left_out:
        parts.append(Text(f"left out (cut links): {summary.left_out}", "yellow"))
    findings = summary.verdict.findings
    for title, texts in (
        ("findings", findings),
        ("surprises", summary.surprises),
        ("THE RUN PROVES NOTHING", summary.void),
    ):
        if texts:
            shown = "\n  ".join(texts[:SHOWN_MAX])
            more = f"\n  and {len(texts) - SHOWN_MAX} more" if len(texts) > SHOWN_MAX else ""
            parts.append(Text(f"{title}:\n  {shown}{more}", "red"))
    word = Text("every promise was kept", "bold green")
    if not summary.ok:
        word = Text("FAILED" if not summary.verdict.ok or summary.surprises else "VOID", "bold red")
    return Group(*parts, word)


def show(summary: Summary, console: Console) -> None:
    """Print `render`."""
    console.print(render(summary))


def _figures(summary: Summary) -> Table:
    report, verdict = summary.verdict.report, summary.verdict
    table = _table(f"{summary.minutes:.1f} minutes of faults, seed {summary.seed}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in (
        ("items", f"{report.submitted:,}"),
        ("completed", f"{report.completed:,}"),
        ("dead (meant to fail)", f"{report.dead:,}"),
        ("cancelled", f"{report.cancelled:,}"),
        ("executions", f"{report.executions:,}"),
        ("answers checked", f"{verdict.answers:,}"),
        ("log entries purged", f"{summary.purged:,}"),
        ("faults", f"{sum(sum(whom.values()) for whom in summary.faults.values()):,}"),
        ("everything ended after the last fault", f"{summary.calm_s:.1f} s"),
        ("something waited for a core", _part(summary.busyness.pressure)),
        ("servers well again after at most", f"{summary.server_well_s:.1f} s"),
    ):
        table.add_row(name, value)
    for name, count in violations(verdict).items():
        table.add_row(name.replace("_", " "), Text(str(count), "red" if count else "green"))
    return table


def _part(pressure: float) -> str:
    return "not known" if pressure < 0 else f"{100 * pressure:.0f} % of the time"


def _faults(summary: Summary) -> Table:
    table = _table("faults, and the longest time without progress while one was under way")
    for column in ("fault", "count", "on whom", "nowhere", "in one shard"):
        table.add_column(column, justify="left" if column in ("fault", "on whom") else "right")
    none = Longest()
    known = [kind for kind in all_kinds() if kind in summary.faults]
    for kind in [*known, *(set(summary.faults) - set(known))]:
        whom = summary.faults[kind]
        on = ", ".join(f"{name} {count}" for name, count in sorted(whom.items()))
        row = _times(summary.longest.get(kind, none))
        table.add_row(kind, str(sum(whom.values())), on, *row)
    table.add_row(NO_FAULT, "", "", *_times(summary.longest.get(NO_FAULT, none)))
    table.add_row("longest of all", "", "", *_times(summary.longest_overall), style="bold")
    return table


def _times(one: Longest) -> tuple[str, str]:
    return f"{one.overall_s:.1f} s", f"{one.shard_s:.1f} s"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", expand=False)
