"""Log life: a log stays proportional to what lives in it, without snapshots and pauses.

*Copy-forward compaction.*  While a log is much longer than its live state, each batch also
states again the items that were stated longest ago (`Copied`), and the answers remembered
longest ago (`Remembered`).  From time to time a batch says, after all that, what the
oldest entry is that anybody needs (`Marked`), and once that is durable the log is purged
below it.

Why a purged log is enough: `needs` never falls, as what is stated again is stated at the
end.  So a reader that begins at F, because the log was purged below F by a mark M with
``needs = F``, meets M later on, and by then everything that lived at M has been stated at
F or behind.  Until it meets a mark with ``needs >= F`` it lets events about items that it
does not know pass by.  Without such a mark the log was cut by somebody else.

*Archiving.*  Ended items, once they are in the shard's finished records, leave the state
by an `Archived` event.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct

from swarm.core.dedupe import Group
from swarm.core.life import LIFE, REMEMBERED
from swarm.core.work import deadline_of, read_spec
from swarm.messages import (
    ENDED,
    Archived,
    Copied,
    Event,
    Item,
    Marked,
    Remembered,
    Taken,
)

if TYPE_CHECKING:
    from swarm.core.decide import Batch
    from swarm.core.shard import Shard

_encode = msgspec.json.Encoder().encode
_item_decoder = msgspec.json.Decoder(Item)

#: Besides the item, of an item that is stated again.
STATED_BYTES = 20
#: What a log may be longer than it must be while storage is short.
PRESSED_FLOOR = 65_536


# --- folding ------------------------------------------------------------------------


def pass_by(shard: Shard, event: Event) -> None:
    """An event about an item that is not known yet, or not any more.

    What its command was answered is remembered all the same.
    """
    assert type(event) in LIFE, f"{event} is not about an item"
    verb = REMEMBERED.get(type(event))
    command_id: str = getattr(event, "command_id", "")
    if verb is not None and command_id:
        number: int = getattr(event, "n")  # noqa: B009 - events of items have it
        shard.remember(command_id, Taken(number, getattr(event, "fence", 0), verb))


def archived(shard: Shard, event: Archived) -> None:
    """The items leave the state."""
    for number in event.n:
        item = shard.items.get(number)
        if item is None:
            assert not shard.complete, f"item {number} is archived, and there is none"
            continue
        assert item.end is not None, f"item {number} is archived before its end"
        assert number not in shard.untold, f"item {number} is archived, dependents are not told"
        shard.archived[item.end.status] += 1
        shard.drop(item)
    shard.trail.tidy(2 * len(event.n))
    for ended in shard.finished.values():
        while ended and ended[0] not in shard.items:
            ended.popleft()


def copied(shard: Shard, event: Copied) -> None:
    """The items are stated whole here."""
    for number, raw in zip(event.n, event.items, strict=True):
        item = shard.items.get(number)
        if item is not None:
            shard.trail.stated(item, shard.seq)
            continue
        assert not shard.complete, f"item {number} is stated again, and there is none"
        _take_in(shard, _item_decoder.decode(raw))
    shard.trail.tidy(2 * len(event.n))


def _take_in(shard: Shard, item: Item) -> None:
    """An item that was stated before the log's beginning, as it was when copied."""
    # A copy: a view would keep the whole entry in memory.
    item.spec = item.spec.copy()
    item.work_type = intern(item.work_type)
    shard.insert(item)
    if item.hold is not None:
        shard.index_hold(item.number, item.hold)
    elif item.end is not None:
        shard.index_end(item)
    elif item.pause is not None:
        shard.pause(item, item.pause)
    else:
        shard.lanes.add(item)
    shard.tally.added(item)
    progress_s = read_spec(item.spec).progress_s
    if progress_s:
        # Of an ended one, too: a dead one can be brought back.
        shard.progress_s[item.number] = progress_s
    if item.end is not None:
        return
    if item.story is not None and item.story.ask is not None:
        shard.timers.add(item.story.ask.until, item.number)
    deadline = deadline_of(item)
    if deadline:
        shard.timers.add(deadline, item.number)


def remembered(shard: Shard, event: Remembered) -> None:
    """Answers are stated again."""
    if event.commands:
        shard.commands.restate(Group(event.at, event.age, event.commands), shard.seq)
    if event.keys:
        shard.keys.restate(Group(event.at, event.age, event.keys), shard.seq)


def marked(shard: Shard, event: Marked) -> None:
    """The counters as of here; the state is complete if the log begins where it may."""
    if not shard.complete and event.needs >= shard.first_seq:
        shard.complete = True
        shard.submitted = event.submitted
        shard.next_number = event.next_number
        for status in ENDED:
            shard.ended[status] = event.ended.get(status, 0)
            shard.archived[status] = event.archived.get(status, 0)
        shard.commands.horizon = max(shard.commands.horizon, event.horizon)
    if shard.complete:
        assert event.submitted == shard.submitted, "the mark's count of submissions"
        assert event.next_number == shard.next_number, "the mark's next number"
    shard.marked = shard.seq
    shard.needs = max(shard.needs, event.needs)


# --- deciding -------------------------------------------------------------------------


def needs(shard: Shard) -> int:
    """The oldest entry needed to know the state, the one under way if it needs none before."""
    oldest = (shard.trail.oldest_seq(), shard.commands.oldest_seq(), shard.keys.oldest_seq())
    return min(seq for seq in (*oldest, shard.seq) if seq is not None)


def compact(shard: Shard, out: Batch, wanted: int, bytes_max: int) -> int:
    """State again what was stated longest ago: about `wanted` bytes, at most `bytes_max`.

    Returns the bytes that it took.  Nothing that is stated in the entry before this one,
    or later, is touched: a log that is all live is not copied round and round.
    """
    assert out.shard is shard, "a batch is one shard's"
    used = _restate_answers(shard, out, wanted // 2, bytes_max)
    numbers: list[int] = []
    items: list[Raw] = []
    shard.trail.oldest_seq()  # drops what has gone, so that it is not looked at again
    for item in shard.trail:
        if item.seq >= shard.seq - 1 or used >= wanted:
            break
        raw = Raw(_encode(item))
        size = len(memoryview(raw)) + STATED_BYTES
        if used + size > bytes_max:
            break
        numbers.append(item.number)
        items.append(raw)
        used += size
    if numbers:
        out.add(Copied(numbers, items))
    return used


def _restate_answers(shard: Shard, out: Batch, wanted: int, bytes_max: int) -> int:
    used = 0
    while used < wanted:
        commands, keys = shard.commands.oldest_seq(), shard.keys.oldest_seq()
        first = min(seq for seq in (commands, keys, shard.seq) if seq is not None)
        items = shard.trail.oldest_seq()
        # Answers and items take turns: what was stated longest ago goes first.
        if first >= shard.seq - 1 or (items is not None and items < first):
            break
        if first == commands:
            known = shard.commands.oldest()
            event = Remembered(known.at, known.age, commands=known.answers)
        else:
            keyed = shard.keys.oldest()
            event = Remembered(keyed.at, keyed.age, keys=keyed.answers)
        size = len(_encode(event))
        if used + size > bytes_max:
            break
        out.add(event)
        used += size
    return used


def mark(shard: Shard, out: Batch) -> int:
    """Say what is needed from here on; returns that sequence."""
    needed = max(shard.needs, needs(shard))
    out.add(
        Marked(
            needed,
            shard.next_number,
            shard.submitted,
            {str(status): count for status, count in shard.ended.items() if count},
            {str(status): count for status, count in shard.archived.items() if count},
            shard.commands.horizon,
        )
    )
    return needed


class Pace(Struct):
    """When to compact, and when to say what is not needed any more.

    A log may be twice as long as what lives in it (as far as is known: what it was down
    to after the last round counts, too), and `floor_bytes` on top.  Then a round begins,
    and goes on until all that was stated before it has been stated again, or has gone.
    """

    floor_bytes: int
    #: Of the log as it is stored.
    log_bytes: int = 0
    #: After the last round.
    settled_bytes: int = 0
    #: While a round is under way: the entry that it began with.
    round: int = 0
    #: A round has ended and its mark has not been made.
    ended: bool = False
    #: Appended since the last mark.
    since_mark: int = 0
    #: The storage is nearly full: whatever can be freed is to be freed.
    pressed: bool = False

    def limit(self, live_bytes: int) -> int:
        """Length from which on a log is compacted."""
        if self.pressed:
            floor = min(self.floor_bytes, PRESSED_FLOOR)
            return floor + max(live_bytes, self.settled_bytes) * 5 // 4
        return self.floor_bytes + 2 * max(live_bytes, self.settled_bytes)

    def awake(self, live_bytes: int) -> bool:
        """Whether there is anything to do at all."""
        return self.round > 0 or self.ended or self.log_bytes > self.limit(live_bytes)

    def copying(self, live_bytes: int, seq: int, needed: int) -> bool:
        """Whether to copy with the batch that will be entry `seq`."""
        assert seq >= needed, "what is needed lies behind"
        if self.round and needed >= self.round:
            self.round, self.ended = 0, True
        elif not self.round and not self.ended and self.log_bytes > self.limit(live_bytes):
            self.round = seq
        return self.round > 0

    def marking(self) -> bool:
        """Whether it is time for a mark and a purge."""
        most = min(self.floor_bytes, PRESSED_FLOOR) if self.pressed else self.floor_bytes // 4
        return self.ended or (self.round > 0 and self.since_mark > most)

    def appended(self, size: int) -> None:
        """An entry of `size` bytes is in the log."""
        self.log_bytes += size
        self.since_mark += size

    def made_mark(self) -> None:
        """A mark is durable; the purge is under way."""
        self.since_mark = 0

    def purged(self, log_bytes: int) -> None:
        """The log was purged, and has so many bytes now."""
        self.log_bytes = log_bytes
        if self.ended:
            self.ended, self.settled_bytes = False, log_bytes
