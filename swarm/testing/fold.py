"""What became of every work item, by the entries of the swarm's logs alone.

A fold of this module's own: the state that a shard keeps is not used.  Only submissions,
claims and their ends are taken.  The entries come from a bus, or from files into which
somebody copied them as they appeared (`swarm.testing.recorded`): a log that is purged from
its front cannot be read from the first entry for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from msgspec import Raw, Struct

from swarm.bus.base import Entry
from swarm.core.envelope import Link, LogPosition, decode_entry
from swarm.core.work import make_token
from swarm.errors import LogMissing
from swarm.messages import (
    Answered,
    Archived,
    Asked,
    Cancelled,
    Claimed,
    Completed,
    Copied,
    Died,
    Due,
    Event,
    Marked,
    Opened,
    Prioritized,
    Progressed,
    Released,
    Remembered,
    Replayed,
    Resolved,
    Retried,
    Submitted,
    Told,
    Waited,
    Watched,
)
from swarm.subjects import Subjects, item_id

#: Entries asked for at once.
PAGE = 256

#: How a claim ended, by the log.
Ending = Literal["completed", "dead", "cancelled", "released"]
#: How an item ended.
Ended = Literal["completed", "dead", "cancelled"]


class Hold(Struct):
    """A claim and its end, as the log has them."""

    token: str
    #: Sequence and place within the entry: what came first in the log.
    at: tuple[int, int]
    #: The server's stamp of the entry.
    time: float
    ending: Ending | None = None
    ended_at: tuple[int, int] | None = None
    ended_time: float = 0.0


class Turn(Struct, frozen=True):
    """From this entry on an item had this status."""

    seq: int
    #: The server's stamp of the entry.
    time: float
    status: str


class Life(Struct):
    """One work item, as the log has it."""

    submitted_time: float
    #: In the order of the log.
    holds: list[Hold]
    ended: Ended | None = None
    #: In the order of the log; several of one entry too.
    turns: list[Turn] = []
    #: The `NewItem`, as submitted.
    item: Raw = Raw(b"null")

    def status_at(self, seq: int) -> str:
        """Its status once the entry `seq` was durable; "" before it was submitted."""
        return next((turn.status for turn in reversed(self.turns) if turn.seq <= seq), "")


class History(Struct):
    """All work items of the logs, and where a log contradicts itself."""

    items: dict[str, Life]
    contradictions: list[str]
    #: Entries that are not the swarm's.
    foreign: int = 0
    #: By shard, the server's stamp of each entry, by sequence: foreign ones included.
    stamps: dict[int, dict[int, float]] = {}


class LogSource(Protocol):
    """What of a `swarm.bus.base.Bus` is needed."""

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """As `Bus.read`."""
        ...


async def read_logs(source: LogSource, subjects: Subjects, shards: Iterable[int]) -> History:
    """Fold the logs of these shards; raises what `source.read` raises, or `Undecodable`.

    `source`: a bus, or the `RecordedLogs` of a directory.
    """
    history = History({}, [])
    for shard in shards:
        fold = _Fold(shard, subjects.log(shard), history)
        while True:
            try:
                entries = await source.read(fold.log, fold.position.at + 1, PAGE)
            except LogMissing:
                fold.contradiction(0, "the log does not exist")
                break
            if not entries or not all(fold.take(entry) for entry in entries):
                break
        history.foreign += fold.position.foreign
    return history


class _Place(Struct, frozen=True):
    """Where an event stands."""

    seq: int
    index: int
    #: The server's stamp.
    time: float
    owner: str

    @property
    def at(self) -> tuple[int, int]:
        return self.seq, self.index


class _Fold:
    """Takes the entries of one log into `history`."""

    def __init__(self, shard: int, log: str, history: History) -> None:
        self.log = log
        self.position = LogPosition(log)
        self._shard = shard
        self._history = history
        self._stamps = history.stamps.setdefault(shard, {})

    def contradiction(self, seq: int, what: str) -> None:
        where = f"{self.log}, entry {seq}" if seq else self.log
        self._history.contradictions.append(f"{where}: {what}")

    def take(self, stored: Entry) -> bool:
        """Fold one entry; False when the log cannot be read any further."""
        entry = decode_entry(self.log, stored.seq, stored.data)
        last = self.position.last
        link = self.position.advance(stored.seq, entry)
        if link is Link.GAP:
            self.contradiction(stored.seq, f"entries between {last} and this one are missing")
            return False
        self._stamps[stored.seq] = stored.time
        if link is not Link.OURS or entry is None:
            return True
        for index, event in enumerate(entry.events):
            self._fold(event, _Place(stored.seq, index, stored.time, entry.owner))
        return True

    def _fold(self, event: Event, place: _Place) -> None:
        row = _FOLDS.get(type(event))
        if row is None:
            what = type(event).__name__
            self.contradiction(place.seq, f"an event that this fold does not know: {what}")
            return
        row(self, event, place)

    def submitted(self, event: Submitted, place: _Place) -> None:
        items = self._history.items
        for number, item in enumerate(event.items, start=event.first):
            name = item_id(self._shard, number)
            if name in items:
                self.contradiction(place.seq, f"{name} is submitted a second time")
            turn = Turn(place.seq, place.time, "queued")
            items[name] = Life(place.time, [], turns=[turn], item=item)

    def claimed(self, event: Claimed, place: _Place) -> None:
        name = item_id(self._shard, event.n)
        token = make_token(event.fence, place.owner, event.session)
        life = self._history.items.get(name)
        if life is None:
            self.contradiction(place.seq, f"{name} is claimed and was never submitted")
            return
        if life.ended:
            self.contradiction(place.seq, f"{name} is claimed ({token}) after its end")
        if life.holds and life.holds[-1].ending is None:
            holder = life.holds[-1].token
            self.contradiction(place.seq, f"{name} is claimed ({token}), held by {holder}")
        if any(token == earlier.token for earlier in life.holds):
            self.contradiction(place.seq, f"{name}: the token {token} is issued again")
        life.holds.append(Hold(token, place.at, place.time))
        life.turns.append(Turn(place.seq, place.time, "claimed"))

    def ended(
        self, event: _AboutHeld, place: _Place, ending: Ending, status: str, ended: Ended | None
    ) -> None:
        name = item_id(self._shard, event.n)
        life = self._history.items.get(name)
        hold = life.holds[-1] if life is not None and life.holds else None
        so_held = hold is not None and not hold.ending and hold.token.startswith(f"{event.fence}.")
        if life is None or hold is None or not so_held:
            what = f"{name} is {ending} under fence {event.fence}, not so held"
            self.contradiction(place.seq, what)
            return
        hold.ending, hold.ended_at, hold.ended_time = ending, place.at, place.time
        life.turns.append(Turn(place.seq, place.time, status))
        life.ended = ended or life.ended

    def over(self, event: Died | Cancelled, place: _Place, ended: Ended) -> None:
        """The item ends, held or not."""
        name = item_id(self._shard, event.n)
        life = self._history.items.get(name)
        if life is None or life.ended or (life.holds and life.holds[-1].ending is None):
            self.ended(event, place, ended, ended, ended)
            return
        life.turns.append(Turn(place.seq, place.time, ended))
        life.ended = ended

    def queued(self, event: Answered | Due | Replayed, place: _Place) -> None:
        for number in [event.n] if isinstance(event.n, int) else event.n:
            life = self._history.items.get(item_id(self._shard, number))
            if life is None:
                self.contradiction(place.seq, f"item {number} is queued, was never submitted")
            elif not isinstance(event, Replayed):
                life.turns.append(Turn(place.seq, place.time, "queued"))
            elif life.turns[-1].status != "claimed":
                # Of a claimed item it changes nothing; a dead one lives again.
                life.turns.append(Turn(place.seq, place.time, "queued"))
                life.ended = None


class _AboutHeld(Protocol):
    """An event about item `n`, held under the fence `fence`."""

    @property
    def n(self) -> int:
        """Number of the item."""
        ...

    @property
    def fence(self) -> int:
        """Of the claim."""
        ...


_Row = Callable[[_Fold, Any, _Place], None]


def _ends(ending: Ending, status: str, ended: Ended | None = None) -> _Row:
    """The claim ends like this, the item has that status; `ended`: how it ended for good."""

    def row(fold: _Fold, event: _AboutHeld, place: _Place) -> None:
        fold.ended(event, place, ending, status, ended)

    return row


def _is_over(ended: Ended) -> _Row:
    """The item has ended like this, whoever held it or not."""

    def row(fold: _Fold, event: Died | Cancelled, place: _Place) -> None:
        fold.over(event, place, ended)

    return row


def _nothing(_fold: _Fold, _event: Event, _place: _Place) -> None:
    """Says nothing about who holds what."""


#: What each kind of event does.  One without a row is reported, as nobody has checked it.
_FOLDS: Mapping[type[Struct], _Row] = {
    Opened: _nothing,
    Submitted: _Fold.submitted,
    Claimed: _Fold.claimed,
    Progressed: _nothing,
    Completed: _ends("completed", "completed", "completed"),
    Died: _is_over("dead"),
    Cancelled: _is_over("cancelled"),
    Retried: _ends("released", "scheduled"),
    Released: _ends("released", "queued"),
    Waited: _ends("released", "waiting"),
    Answered: _Fold.queued,
    Due: _Fold.queued,
    Replayed: _Fold.queued,
    # That an item was blocked, or waited for its time, from its submission on is not told.
    Resolved: _nothing,
    Asked: _nothing,
    Prioritized: _nothing,
    Watched: _nothing,
    Told: _nothing,
    # Of items and answers that this fold has already; the swarm's own upkeep.
    Archived: _nothing,
    Copied: _nothing,
    Remembered: _nothing,
    Marked: _nothing,
}
