"""What restoring a log from a file would do: found out without changing anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec
from msgspec import Struct, field

from swarm.actors.opening import RESTORING, KnownLog, key_of, shard_rules_of
from swarm.bus.base import Bus, Entry, Message
from swarm.bus.log_reader import PAGE
from swarm.config import Settings
from swarm.core.audit import LogAudit
from swarm.core.envelope import decode_entry
from swarm.errors import BadInput, BusError, LogMissing, SwarmError, Undecodable
from swarm.messages import Beat, Cancelled, Completed, Died, Submitted
from swarm.recovery.saved import SavedLog
from swarm.recovery.saving import LOOK_AGAIN_S, LOOKS
from swarm.subjects import Subjects

#: Entries folded at a stretch.
FOLD_AT_ONCE = 100

_decode_beat = msgspec.json.Decoder(Beat).decode


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be restored from which file.

    `before`: only the entries before this sequence; 0: all.
    """

    settings: Settings
    shard: int
    saved: SavedLog
    before: int = 0

    @property
    def subjects(self) -> Subjects:
        """Of the swarm."""
        return Subjects(self.settings.prefix)

    @property
    def log(self) -> str:
        """To be restored."""
        return self.subjects.log(self.shard)

    @property
    def last_seq(self) -> int:
        """Of the entries that are brought back."""
        last_seq = self.saved.header.last_seq
        return min(last_seq, self.before - 1) if self.before else last_seq


class Gone(Struct):
    """Entries of the log there is now that would not be in the restored one."""

    entries: int = 0
    first_seq: int = 0
    last_seq: int = 0
    #: Of these, what cannot be read, and what is not the swarm's.
    unreadable: int = 0
    foreign: int = 0
    #: What the others say.
    submitted: int = 0
    ended: int = 0


class Plan(Struct):
    """What would be done."""

    log: str
    #: What is brought back.
    first_seq: int
    last_seq: int
    incarnation: str
    #: Entries of the file that are not.
    left_out: int
    #: Items in the restored shard by status, archived ones not among them.
    items: dict[str, int]
    archived: int
    #: Last entry of the log there is now; 0: none.
    now_last_seq: int
    gone: Gone
    #: What is odd, and keeps nobody from doing it.
    warnings: list[str] = field(default_factory=list)


async def make_plan(bus: Bus, wanted: Wanted) -> Plan:
    """Check file and swarm.

    Raises `BadInput` for a file that cannot be used, saying which entry and what to do;
    `SwarmError` while a live coordinator owns the shard; and what the bus raises.
    """
    _check_belongs(wanted)
    audit = await _fold(bus, wanted)
    await check_unowned(bus, wanted)
    known = await _known(bus, wanted.shard)
    first = audit.chain.began_with
    assert first is not None, "checked by the fold"
    gone, now_last_seq = await _compare(bus, wanted)
    warnings = [f"in the file: {finding}" for finding in audit.findings.found]
    if audit.findings.more:
        warnings.append(f"in the file: {audit.findings.more} more findings")
    if known not in ("", RESTORING, first.incarnation):
        warnings.append(
            f"the file has the log {first.incarnation}, the shared state knows {known}: what the "
            "swarm did since the one was replaced by the other is not in the file"
        )
    header = wanted.saved.header
    return Plan(
        log=wanted.log,
        first_seq=header.first_seq,
        last_seq=wanted.last_seq,
        incarnation=first.incarnation,
        left_out=header.last_seq - wanted.last_seq,
        items={status: count for status, count in audit.ledger.walk().items() if count},
        archived=sum(audit.ledger.archived.values()),
        now_last_seq=now_last_seq,
        gone=gone,
        warnings=warnings,
    )


# --- the file ---------------------------------------------------------------------------


def _check_belongs(wanted: Wanted) -> None:
    header, path = wanted.saved.header, wanted.saved.path
    if (header.prefix, header.shard) != (wanted.settings.prefix, wanted.shard):
        raise BadInput(
            f"{path} is shard {header.shard} of the swarm {header.prefix!r}, not shard "
            f"{wanted.shard} of {wanted.settings.prefix!r}"
        )
    if wanted.before and not header.first_seq < wanted.before <= header.last_seq + 1:
        raise BadInput(
            f"--before {wanted.before}: {path} has entries {header.first_seq} to "
            f"{header.last_seq}, so it can be {header.first_seq + 1} to {header.last_seq + 1}"
        )


async def _fold(bus: Bus, wanted: Wanted) -> LogAudit:
    """Fold it as `swarm doctor` does; raises `BadInput` naming the entry where that ends."""
    saved, log = wanted.saved, wanted.log
    rules = shard_rules_of(wanted.settings, bus.max_payload)
    audit = LogAudit(log, wanted.shard, rules, saved.header.first_seq)
    for count, stored in enumerate(saved.entries(wanted.last_seq)):
        if not audit.take(stored.seq, stored.data) or audit.shard is None:
            raise _cannot_be_folded(audit, stored)
        if count % FOLD_AT_ONCE == 0:
            await asyncio.sleep(0)
    if not audit.complete:
        raise BadInput(
            f"{saved.path} begins with entry {saved.header.first_seq}, and nothing up to entry "
            f"{wanted.last_seq} says that what came before is not needed: it was cut at its "
            "front" + (", or --before is too low" if wanted.before else "")
        )
    audit.finish()
    if audit.chain.began_with is None:
        raise BadInput(f"{saved.path}: none of its entries is the swarm's")
    return audit


def _cannot_be_folded(audit: LogAudit, stored: Entry) -> BadInput:
    last, bad = audit.findings.found[-1], stored.seq
    if last.rule == "chain":
        # This entry only shows that the one which it names as the one before is damaged.
        entry = decode_entry(audit.log, stored.seq, stored.data)
        assert entry is not None, "it was followed"
        bad = entry.previous
    return BadInput(
        f"entry {stored.seq} of the file cannot be folded: {last.what}; use another file, or only "
        f"the entries before it: --before {bad}"
    )


# --- the swarm --------------------------------------------------------------------------


async def check_unowned(bus: Bus, wanted: Wanted) -> None:
    """Raise `SwarmError` if a live coordinator owns the shard; listens for a while."""
    owners: dict[str, bool] = {}

    def hear(message: Message) -> None:
        try:
            beat = _decode_beat(message.data)
        except msgspec.MsgspecError:
            return  # of no version that could say what it owns
        owners[beat.coordinator] = wanted.shard in beat.owns and not beat.leaving

    subscription = await bus.subscribe(wanted.subjects.beat("*"), hear)
    await asyncio.sleep(wanted.settings.missed_s)
    await subscription.unsubscribe()
    owner = next((name for name, owns in owners.items() if owns), "")
    if owner:
        raise SwarmError(
            f"shard {wanted.shard} is open: {owner} owns it and serves it.  A log is restored only "
            "while nobody writes it; to bring back an older state, stop all coordinators first "
            "(NATS goes on)"
        )


async def _known(bus: Bus, shard: int) -> str:
    """The incarnation that the shared state has of the log; "" if none that can be read."""
    data = await bus.state_get(key_of(shard))
    try:
        return "" if data is None else msgspec.json.decode(data, type=KnownLog).incarnation
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


async def _compare(bus: Bus, wanted: Wanted) -> tuple[Gone, int]:
    """What of the log there is now would go, and its last sequence."""
    gone = Gone()
    try:
        info = await bus.log_info(wanted.log)
    except LogMissing:
        return gone, 0
    saved = wanted.saved.entries(wanted.last_seq)
    kept = next(saved, None)
    async for stored in all_entries(bus, wanted.log, info.first_seq, info.last_seq):
        while kept is not None and kept.seq < stored.seq:
            kept = next(saved, None)
        if kept is None or (kept.seq, kept.data) != (stored.seq, stored.data):
            _goes(gone, wanted.log, stored)
    return gone, info.last_seq


async def all_entries(bus: Bus, log: str, first_seq: int, last_seq: int) -> AsyncIterator[Entry]:
    """Every entry of a log that nobody writes."""
    wanted, looks = first_seq, 0
    while wanted <= last_seq:
        page = await bus.read(log, wanted, PAGE)
        for stored in page:
            if stored.seq > last_seq:
                return
            yield stored
            wanted = stored.seq + 1
        looks = 0 if page else looks + 1
        if looks > LOOKS:
            raise BusError(f"{log}: entry {wanted} is there, says NATS, and cannot be read")
        if not page:
            await asyncio.sleep(LOOK_AGAIN_S)


def _goes(gone: Gone, log: str, stored: Entry) -> None:
    gone.entries += 1
    gone.first_seq = gone.first_seq or stored.seq
    gone.last_seq = stored.seq
    try:
        entry = decode_entry(log, stored.seq, stored.data)
    except Undecodable:
        gone.unreadable += 1
        return
    if entry is None:
        gone.foreign += 1
        return
    for event in entry.events:
        if isinstance(event, Submitted):
            gone.submitted += len(event.items)
        elif isinstance(event, Completed | Died | Cancelled):
            gone.ended += 1


# --- words ------------------------------------------------------------------------------


def lines(plan: Plan) -> Iterator[str]:
    """The plan for people."""
    states = ", ".join(f"{count} {status}" for status, count in plan.items.items())
    archived = f"; {plan.archived} archived" if plan.archived else ""
    yield (
        f"{plan.log}: entries {plan.first_seq} to {plan.last_seq} of the file come back (log "
        f"{plan.incarnation}); items: {states or 'none'}{archived}"
    )
    if plan.left_out:
        yield f"entries of the file that are left out: {plan.left_out}"
    gone = plan.gone
    if not plan.now_last_seq:
        yield "there is no such log now, or an empty one"
    elif not gone.entries:
        yield "all that is in the log now is in the file, too"
    else:
        said = [f"{gone.submitted} items submitted", f"{gone.ended} ended"]
        said += [f"{gone.unreadable} entries cannot be read"] if gone.unreadable else []
        said += [f"{gone.foreign} entries are not the swarm's"] if gone.foreign else []
        yield (
            f"entries in the log now that go: {gone.entries}, from {gone.first_seq} to "
            f"{gone.last_seq}: {', '.join(said)}"
        )
    yield from (f"note: {warning}" for warning in plan.warnings)
