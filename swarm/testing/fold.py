"""What became of every work item, by the entries of the swarm's logs alone.

A fold of this module's own: the state that a shard keeps is not used.  It takes from the
events who holds what and what status an item has; and where compaction states an item
again, it holds that against what it knows itself.  The entries come from a bus, or from
files into which somebody copied them as they appeared (`swarm.testing.recorded`): a log
that is purged from its front cannot be read from the first entry for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

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
    Item,
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
from swarm.testing.lives import Ended, Ending, History, Hold, Life, Turn
from swarm.testing.recorded import BoundedEntry

__all__ = ["History", "Hold", "Life", "LogSource", "Turn", "read_logs"]

#: Entries asked for at once.
PAGE = 256


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


class _Wishes(Struct):
    """What of a submitted item decides when it can be claimed."""

    dependencies: list[str] = []
    not_before: float = 0.0
    on_dependency_failure: str = "block"


_wishes = msgspec.json.Decoder(_Wishes)
_item = msgspec.json.Decoder(Item)


class _Place(Struct, frozen=True):
    """Where an event stands."""

    seq: int
    index: int
    #: The server's stamp: the earliest and the latest that it can be.
    time: float
    latest: float
    owner: str
    #: The owner's clock, which delays go by.
    now: float

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
        latest = stored.latest if isinstance(stored, BoundedEntry) else stored.time
        self._stamps[stored.seq] = stored.time, latest
        if link is not Link.OURS or entry is None:
            return True
        for index, event in enumerate(entry.events):
            place = _Place(stored.seq, index, stored.time, latest, entry.owner, entry.now)
            self._fold(event, place)
        return True

    def _fold(self, event: Event, place: _Place) -> None:
        row = _FOLDS.get(type(event))
        if row is None:
            what = type(event).__name__
            self.contradiction(place.seq, f"an event that this fold does not know: {what}")
            return
        row(self, event, place)

    def _life(self, number: int, place: _Place, what: str) -> Life | None:
        """The item; None, and a contradiction, if there is none."""
        name = item_id(self._shard, number)
        life = self._history.items.get(name)
        if life is None:
            self.contradiction(place.seq, f"{name} is {what} and was never submitted")
        return life

    def submitted(self, event: Submitted, place: _Place) -> None:
        items = self._history.items
        for number, raw in enumerate(event.items, start=event.first):
            name = item_id(self._shard, number)
            if name in items:
                self.contradiction(place.seq, f"{name} is submitted a second time")
            wishes = _wishes.decode(raw)
            life = items[name] = Life(place.time, [], item=raw, turns=[])
            life.depends = dict.fromkeys(wishes.dependencies, "")
            _turn(life, place, _ready(wishes, place) if not life.depends else "blocked")

    def claimed(self, event: Claimed, place: _Place) -> None:
        token = make_token(event.fence, place.owner, event.session)
        life = self._life(event.n, place, "claimed")
        if life is None:
            return
        name = item_id(self._shard, event.n)
        if life.ended:
            self.contradiction(place.seq, f"{name} is claimed ({token}) after its end")
        elif life.holds and life.holds[-1].ending is None:
            holder = life.holds[-1].token
            self.contradiction(place.seq, f"{name} is claimed ({token}), held by {holder}")
        elif life.status != "queued":
            self.contradiction(place.seq, f"{name} is claimed ({token}) and is {life.status}")
        if any(token == earlier.token for earlier in life.holds):
            self.contradiction(place.seq, f"{name}: the token {token} is issued again")
        life.holds.append(Hold(token, place.at, place.time, latest=place.latest))
        _turn(life, place, "claimed")

    def let_go(
        self, event: _AboutHeld, place: _Place, ending: Ending, after: str, *, told: bool
    ) -> Life | None:
        """The claim ends so; None, and a contradiction, if it is no claim of now."""
        name = item_id(self._shard, event.n)
        life = self._history.items.get(name)
        hold = life.holds[-1] if life is not None and life.holds else None
        so_held = hold is not None and not hold.ending and hold.token.startswith(f"{event.fence}.")
        if life is None or hold is None or not so_held:
            what = f"{name} is {ending} under fence {event.fence}, not so held"
            self.contradiction(place.seq, what)
            return None
        hold.ending, hold.ended_at, hold.ended_time = ending, place.at, place.time
        hold.ended_latest, hold.told, hold.after = place.latest, told, after
        _turn(life, place, after)
        return life

    def end(self, event: _AboutHeld, place: _Place, ended: Ended, *, told: bool) -> None:
        """The item ends so, held under the fence or not held."""
        life = self._life(event.n, place, ended)
        if life is None:
            return
        name = item_id(self._shard, event.n)
        if life.ended:
            self.contradiction(place.seq, f"{name} is {ended} after its end")
        if life.status == "claimed":
            if self.let_go(event, place, ended, ended, told=told) is None:
                return
        else:
            _turn(life, place, ended)
        life.ended = ended

    def queue(self, number: int, place: _Place, out_of: tuple[str, ...]) -> None:
        """The item, which must have one of these statuses, is queued."""
        life = self._life(number, place, "queued")
        if life is None:
            return
        if life.status not in out_of:
            what = f"{item_id(self._shard, number)} is queued and was {life.status}"
            self.contradiction(place.seq, what)
        life.ended = None
        _turn(life, place, "queued")

    def replayed(self, event: Replayed, place: _Place) -> None:
        life = self._life(event.n, place, "brought back")
        if life is not None and life.status not in ("queued", "claimed"):
            self.queue(event.n, place, ("dead", "scheduled", "blocked"))

    def resolved(self, event: Resolved, place: _Place) -> None:
        life = self._life(event.n, place, "told of another's end")
        if life is None:
            return
        if event.on not in life.depends:
            what = f"{item_id(self._shard, event.n)} does not depend on {event.on}"
            self.contradiction(place.seq, what)
        life.depends[event.on] = event.status
        wishes = _wishes.decode(life.item)
        goes_on: tuple[str, ...] = ("completed",)
        if wishes.on_dependency_failure == "run":
            goes_on = ("completed", "dead", "cancelled")
        if life.status == "blocked" and all(one in goes_on for one in life.depends.values()):
            _turn(life, place, _ready(wishes, place))

    def copied(self, event: Copied, place: _Place) -> None:
        """What compaction states again must be what the log said before."""
        for number, raw in zip(event.n, event.items, strict=True):
            life = self._life(number, place, "stated again")
            if life is None:
                continue
            item = _item.decode(raw)
            said = f"{item_id(self._shard, number)} is stated again as {item.status}"
            if item.status != life.status:
                self.contradiction(place.seq, f"{said}, and is {life.status}")
            token = life.holds[-1].token if life.status == "claimed" else ""
            if (item.hold.token if item.hold is not None else "") != token:
                self.contradiction(place.seq, f"{said} under another claim than {token!r}")
            if item.fence != len(life.holds):
                claims = len(life.holds)
                self.contradiction(place.seq, f"{said}, claimed {item.fence} times, not {claims}")

    def archived(self, event: Archived, place: _Place) -> None:
        for number in event.n:
            life = self._life(number, place, "archived")
            if life is not None and not life.ended:
                what = f"{item_id(self._shard, number)} is archived and is {life.status}"
                self.contradiction(place.seq, what)


def _turn(life: Life, place: _Place, status: str) -> None:
    life.turns.append(Turn(place.seq, place.time, status))


def _ready(wishes: _Wishes, place: _Place) -> str:
    """Status of an item that depends on nothing any more."""
    return "scheduled" if wishes.not_before > place.now else "queued"


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


_Row = Callable[[_Fold, Any, _Place], object]


def _completed(fold: _Fold, event: Completed, place: _Place) -> None:
    life = fold.let_go(event, place, "completed", "completed", told=True)
    if life is not None:
        life.ended = "completed"


def _retried(fold: _Fold, event: Retried, place: _Place) -> None:
    after = "scheduled" if event.until > place.now else "queued"
    fold.let_go(event, place, "retried", after, told=True)


def _due(fold: _Fold, event: Due, place: _Place) -> None:
    for number in event.n:
        fold.queue(number, place, ("scheduled", "waiting"))


def _nothing(_fold: _Fold, _event: Event, _place: _Place) -> None:
    """Says nothing about who holds what, and changes no status."""


#: What each kind of event does.  One without a row is reported, as nobody has checked it.
_FOLDS: Mapping[type[Struct], _Row] = {
    Opened: _nothing,
    Submitted: _Fold.submitted,
    Claimed: _Fold.claimed,
    Progressed: _nothing,
    Completed: _completed,
    Died: lambda fold, event, place: fold.end(event, place, "dead", told=event.cause == "failed"),
    Cancelled: lambda fold, event, place: fold.end(event, place, "cancelled", told=False),
    Released: lambda fold, event, place: fold.let_go(
        event, place, "released", "queued", told=False
    ),
    Retried: _retried,
    Waited: lambda fold, event, place: fold.let_go(event, place, "waiting", "waiting", told=True),
    Answered: lambda fold, event, place: fold.queue(event.n, place, ("waiting",)),
    Due: _due,
    Replayed: _Fold.replayed,
    Asked: _nothing,
    Prioritized: _nothing,
    Watched: _nothing,
    Told: _nothing,
    Resolved: _Fold.resolved,
    Archived: _Fold.archived,
    Copied: _Fold.copied,
    Remembered: _nothing,
    Marked: _nothing,
}
