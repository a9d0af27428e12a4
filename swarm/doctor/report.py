"""What `swarm doctor` found out, as data and in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import Struct, field

from swarm.core.audit import Finding
from swarm.core.audit.edges import EdgeCounts


class RecordCounts(Struct):
    """Archived items looked up in the finished records."""

    checked: int = 0
    #: Not there any more, and old enough for that.
    expired: int = 0
    #: Not there; when they were archived is not in the log, so they may have expired.
    unknown: int = 0
    #: Archived items that were not looked up.
    left_out: int = 0


class ShardReport(Struct):
    """One shard."""

    shard: int
    log: str
    incarnation: str = ""
    #: The entries that were looked at.
    first_seq: int = 0
    last_seq: int = 0
    #: The server's stamps of these two; 0: there is none.
    first_time: float = 0.0
    last_time: float = 0.0
    entries: int = 0
    foreign: int = 0
    events: int = 0
    claims: int = 0
    owners: int = 0
    #: Of the first and the last entry.
    epochs: list[int] = []
    submitted: int = 0
    #: Items by status, archived ones not among them.
    items: dict[str, int] = {}
    #: Archived items, by how they had ended.
    archived: dict[str, int] = {}
    #: Times that an item was stated again, and marks that say what is not needed any more.
    copies: int = 0
    marks: int = 0
    #: The second fold began with this entry; 0: no mark says that it may begin later.
    refolded_from: int = 0
    #: Events about items that were only stated before the log's beginning.
    passed_by: int = 0
    edges: EdgeCounts = field(default_factory=EdgeCounts)
    records: RecordCounts = field(default_factory=RecordCounts)


class Report(Struct):
    """All of it."""

    prefix: str
    shards: list[ShardReport]
    findings: list[Finding]
    #: Findings that are only counted.
    more_findings: int = 0
    #: Sentences: what was checked, and what could not be.
    checked: list[str] = []
    skipped: list[str] = []

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and not self.more_findings


def words_of(shards: list[ShardReport]) -> list[str]:
    """What was checked, and how much of it."""
    items = sum(sum(shard.items.values()) for shard in shards)
    archived = sum(sum(shard.archived.values()) for shard in shards)
    said = [
        _chain_words(shards),
        (
            f"lives: {_count(sum(s.events for s in shards), 'event')}, each allowed to its item as "
            f"it was then; {_count(sum(s.claims for s in shards), 'claim')}, fences growing by "
            "one, one holder at a time"
        ),
        (
            f"conservation: {_count(sum(s.submitted for s in shards), 'item')} submitted = {items} "
            f"in the logs + {archived} archived, counted by events and by a walk"
        ),
        "the swarm's own fold of every entry, against a fold that shares no code with it",
        (
            "commands and keys: none was carried out, or used for another item, twice within the "
            "dedupe window"
        ),
        *_compaction_words(shards),
        (
            f"dependencies: {_count(sum(s.edges.pending for s in shards), 'outcome')} waited for, "
            f"{sum(s.edges.registered for s in shards)} of these edges in the other shard's log, "
            f"the others asked for until they are; {sum(s.edges.outbox for s in shards)} told "
            "until they are heard"
        ),
    ]
    records = sum(shard.records.checked for shard in shards)
    if records or archived:
        said.append(f"finished records: {_count(records, 'archived item')} looked up and compared")
    return said


def _chain_words(shards: list[ShardReport]) -> str:
    entries = sum(shard.entries for shard in shards)
    return (
        f"chain: {_count(entries, 'entry', 'entries')} of {_count(len(shards), 'log')}, each the "
        "next of the one before it (epoch, owner, batch, previous entry, time, incarnation)"
    )


def _compaction_words(shards: list[ShardReport]) -> list[str]:
    copies, marks = sum(s.copies for s in shards), sum(s.marks for s in shards)
    said = []
    if copies or marks:
        said.append(
            f"compaction: {_count(copies, 'copy', 'copies')}, each saying what the events said; "
            f"{_count(marks, 'mark')}, each with the right counters and letting go of nothing that "
            "was needed"
        )
    refolded = [f"{s.log} from {s.refolded_from}" for s in shards if s.refolded_from]
    if refolded:
        said.append(
            "compaction lost nothing: a second fold that begins where a mark lets it gives the "
            f"same state ({', '.join(refolded)})"
        )
    return said


def lines(report: Report) -> Iterator[str]:
    """The report for people."""
    for shard in report.shards:
        yield _shard_line(shard)
    yield ""
    yield "checked"
    for text in report.checked:
        yield f"  - {text}"
    yield "not checked"
    for text in report.skipped or ["nothing was left out"]:
        yield f"  - {text}"
    count = len(report.findings) + report.more_findings
    yield f"{_count(count, 'finding')}" if count else "no findings"
    for finding in report.findings:
        yield f"  - {finding}"
    if report.more_findings:
        yield f"  - and {report.more_findings} more"


def _shard_line(shard: ShardReport) -> str:
    if not shard.entries:
        return f"shard {shard.shard}: {shard.log} has no entry of ours"
    states = ", ".join(f"{count} {status}" for status, count in shard.items.items() if count)
    archived = sum(shard.archived.values())
    begins = "its beginning" if shard.first_seq == 1 else "where it was purged to"
    return (
        f"shard {shard.shard}: {shard.log} entries {shard.first_seq} to {shard.last_seq}, from "
        f"{begins} ({when(shard.first_time)}); {_count(shard.owners, 'owner')}; items: "
        f"{states or 'none'}{f'; {archived} archived' if archived else ''}"
    )


def when(time: float) -> str:
    """A moment for people."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
