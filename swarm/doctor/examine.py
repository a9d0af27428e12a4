"""Examining a whole swarm: each log by itself, then all of them against each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from swarm.actors import shard_map
from swarm.actors.opening import RESTORING, KnownLog, key_of, shard_rules_of
from swarm.bus.base import Bus
from swarm.bus.log_reader import PAGE
from swarm.config import Settings
from swarm.core.audit import Edges, Finding, Unheard, edges_of, unheard
from swarm.core.audit.edges import count_edges
from swarm.core.audit.findings import Rule
from swarm.core.envelope import decode_entry
from swarm.doctor.reading import LOOK_AGAIN_S, LOOKS, LogReading
from swarm.doctor.records import RecordsReading
from swarm.doctor.report import Report, ShardReport, words_of
from swarm.errors import BadInput, LogMissing, Undecodable
from swarm.messages import Cancelled, Completed, Died, LogEntry, Resolved, ShardMap
from swarm.subjects import Subjects, item_id

_decode_map = msgspec.json.Decoder(ShardMap).decode


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What to examine.  `now`: seconds since the epoch."""

    settings: Settings
    now: float
    #: None: all.
    shards: list[int] | None = None
    #: Look up every archived item, not some of each shard.
    all_records: bool = False


async def examine(bus: Bus, what: Examination) -> Report:
    """Read everything, change nothing.

    Raises `BadInput` where there is no such swarm or shard, and what the bus raises.
    """
    return await _Examiner(bus, what).run()


class _Examiner:
    def __init__(self, bus: Bus, what: Examination) -> None:
        self._bus = bus
        self._what = what
        self._subjects = Subjects(what.settings.prefix)
        self._edges: dict[int, Edges] = {}
        self._report = Report(what.settings.prefix, [], [])
        #: Log by incarnation.
        self._incarnations: dict[str, str] = {}
        self._map: ShardMap | None = None

    async def run(self) -> Report:
        report = self._report
        await self._read_map()
        for shard in self._chosen():
            await self._examine(shard)
        await self._check_edges()
        for one in report.shards:
            one.edges = count_edges(self._edges[one.shard], self._edges)
        report.checked = words_of(report.shards)
        if self._map is not None:
            report.checked.append(
                f"the shard map (version {self._map.version}): its {self._map.shard_count} logs "
                "exist and were written under it, each under an incarnation of its own"
            )
        self._say_what_was_skipped()
        return report

    # --- the shared state -----------------------------------------------------------------

    async def _read_map(self) -> None:
        data = await self._bus.state_get(shard_map.KEY)
        try:
            self._map = _decode_map(data) if data is not None else None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._add("map", f"the stored shard map cannot be decoded: {error}")

    def _chosen(self) -> list[int]:
        settings, chosen = self._what.settings, self._what.shards
        count = self._map.shard_count if self._map is not None else settings.shards
        if chosen is None:
            return list(range(count))
        for shard in chosen:
            if shard >= count:
                raise BadInput(f"there is no shard {shard}; this swarm has shards 0 to {count - 1}")
        return sorted(set(chosen))

    # --- one shard -------------------------------------------------------------------------

    async def _examine(self, shard: int) -> None:
        bus, settings, log = self._bus, self._what.settings, self._subjects.log(shard)
        reading = LogReading(bus, log, shard, shard_rules_of(settings, bus.max_payload))
        try:
            await reading.run()
        except LogMissing:
            await self._log_is_missing(log)
            reading.skipped = []
        audit = reading.audit
        if not audit.broken_at:
            records = RecordsReading(
                bus,
                self._subjects.records(shard),
                audit,
                settings.finished_retention_s,
                self._what.now,
            )
            if audit.complete:
                await records.run(everything=self._what.all_records)
            counts = records.counts
        else:
            counts = ShardReport(shard, log).records
        one = _summary(reading, shard, log)
        one.records = counts
        self._report.shards.append(one)
        self._report.skipped += reading.skipped
        self._edges[shard] = edges_of(shard, audit.at, audit.ledger)
        await self._check_known(shard, log, one.incarnation, broken=bool(audit.broken_at))
        last, first = audit.chain.last, audit.chain.began_with
        if last is not None and first is not None:
            self._check_against_map(log, last, audit.chain.last_seq)
            self._check_incarnation(log, first)
        self._report.findings += audit.findings.found
        self._report.more_findings += audit.findings.more

    async def _log_is_missing(self, log: str) -> None:
        if self._map is None and not self._report.shards:
            prefix = self._what.settings.prefix
            raise BadInput(
                f"there is no swarm {prefix!r} on this NATS: no shard map, and no log {log}; "
                "name another one with --prefix or SWARM_PREFIX"
            )
        self._add("missing", "the log does not exist: was its stream deleted?", log)

    def _check_against_map(self, log: str, last: LogEntry, seq: int) -> None:
        if self._map is None:
            self._add("map", "the log has entries, and no shard map is stored", log)
        elif last.map_version > self._map.version:
            what = f"written under map version {last.map_version}, {self._map.version} is stored"
            self._add("map", what, log, seq)

    async def _check_known(self, shard: int, log: str, incarnation: str, *, broken: bool) -> None:
        """The shared state knows each log that was ever opened, by its incarnation."""
        key = key_of(shard)
        data = await self._bus.state_get(key)
        if data is None:
            return  # made by an earlier version, and not opened since
        try:
            known = msgspec.json.decode(data, type=KnownLog).incarnation
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._add("map", f"{key} in the shared state cannot be decoded: {error}")
            return
        if known == RESTORING:
            self._add("map", "it is being restored, or that was interrupted: run it again", log)
        elif known != incarnation and not (broken and not incarnation):
            found = f"is incarnation {incarnation}" if incarnation else "has no entry of ours"
            what = f"it {found}, the shared state knows {known}: it was deleted or replaced"
            self._add("map", what, log)

    def _check_incarnation(self, log: str, first: LogEntry) -> None:
        other = self._incarnations.setdefault(first.incarnation, log)
        if other != log:
            what = f"incarnation {first.incarnation} is that of {other}: restored in a wrong place?"
            self._add("chain", what, log)

    def _add(self, rule: Rule, what: str, log: str = "", seq: int = 0, item: str = "") -> None:
        place = log or "shared state"
        self._report.findings.append(Finding(rule, what, place, seq, item))

    # --- dependencies ----------------------------------------------------------------------

    async def _check_edges(self) -> None:
        for suspect in unheard(self._edges):
            if await self._is_heard(suspect):
                continue
            name = item_id(suspect.shard, suspect.dependent)
            what = (
                f"it waits for {suspect.on}, whose shard believes that it was told "
                f"({suspect.status}): nobody will tell it again"
            )
            self._add("edge", what, self._subjects.log(suspect.shard), suspect.after, name)

    async def _is_heard(self, suspect: Unheard) -> bool:
        """Whether the dependent's log says so in what came since it was read."""
        log, wanted = self._subjects.log(suspect.shard), suspect.after + 1
        for _ in range(LOOKS):
            for stored in await self._bus.read(log, wanted, PAGE):
                if stored.seq != wanted:
                    return True  # purged since: it cannot be told any more
                wanted += 1
                try:
                    entry = decode_entry(log, stored.seq, stored.data)
                except Undecodable:
                    return True  # told in its own place, when somebody looks again
                if entry is not None and _settles(entry, suspect):
                    return True
            # A replica may have answered that is behind.
            await asyncio.sleep(LOOK_AGAIN_S)
        return False

    # --- words --------------------------------------------------------------------------------

    def _say_what_was_skipped(self) -> None:
        report, settings = self._report, self._what.settings
        for one in report.shards:
            if one.first_seq > 1:
                report.skipped.append(
                    f"what {one.log} said before entry {one.first_seq}: it was purged, as the "
                    "log's marks allow"
                )
            if one.passed_by:
                report.skipped.append(
                    f"{one.passed_by} events of {one.log} about items that ended, and were "
                    "archived, before its beginning was made up for"
                )
            if one.edges.elsewhere:
                report.skipped.append(
                    f"{one.edges.elsewhere} dependencies of {one.log} on shards that were not "
                    "looked at"
                )
        counts = [one.records for one in report.shards]
        if left_out := sum(one.left_out for one in counts):
            report.skipped.append(
                f"finished records of {left_out} archived items"
                + ("" if self._what.all_records else " (all of them: --records)")
            )
        if gone := sum(one.expired + one.unknown for one in counts):
            report.skipped.append(
                f"{gone} archived items without a record: records are kept for "
                f"{settings.finished_retention_s:.0f} s (FINISHED_RETENTION_S)"
            )
        report.skipped.append("payloads and results: nothing in an entry tells what they were")


def _settles(entry: LogEntry, suspect: Unheard) -> bool:
    for event in entry.events:
        if isinstance(event, Resolved) and (event.n, event.on) == (suspect.dependent, suspect.on):
            return True
        if isinstance(event, Completed | Died | Cancelled) and event.n == suspect.dependent:
            return True
    return False


def _summary(reading: LogReading, shard: int, log: str) -> ShardReport:
    audit = reading.audit
    chain, ledger = audit.chain, audit.ledger
    last, first = chain.last, chain.began_with
    return ShardReport(
        shard=shard,
        log=log,
        incarnation=first.incarnation if first is not None else "",
        first_seq=audit.first_seq,
        last_seq=audit.at,
        first_time=reading.first_time,
        last_time=reading.last_time,
        entries=chain.entries,
        foreign=chain.foreign,
        events=ledger.totals.events,
        claims=ledger.totals.claims,
        owners=len(chain.owners),
        epochs=[first.epoch, last.epoch] if first is not None and last is not None else [],
        submitted=ledger.submitted,
        items={status: count for status, count in ledger.walk().items() if count},
        archived={status: count for status, count in ledger.archived.items() if count},
        copies=ledger.totals.copies,
        marks=ledger.totals.marks,
        refolded_from=reading.refolded_from,
        passed_by=ledger.totals.passed_by,
    )
