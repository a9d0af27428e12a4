"""Small builders for tests of the core: ids, items, a shard with its log, its whole state."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec import Raw

from swarm.core import decide, upkeep
from swarm.core.decide import Batch, TakenBack
from swarm.core.envelope import FORMAT, Link, LogPosition, decode_entry, encode_entry
from swarm.core.ids import uuid7
from swarm.core.shard import Shard, ShardRules
from swarm.errors import NotInMemory, Refusal
from swarm.messages import (
    Ack,
    Answer,
    Archived,
    Assignment,
    Beat,
    Cancel,
    Claim,
    Complete,
    Edge,
    Event,
    Fail,
    Item,
    ItemCommand,
    ItemControl,
    LogEntry,
    NewItem,
    Opened,
    Prioritize,
    Priority,
    Progress,
    Release,
    Retry,
    ShardMap,
    ShardSubmit,
    SubmitReply,
    Wait,
)

T = TypeVar("T")

#: The wall clock of tests begins here: seconds since the epoch.
NOW = 1_800_000_000.0
#: Number of the shard in tests.
SHARD = 3
LOG = "swarmlog.3"


def command_id(number: int, at_s: float = NOW) -> str:
    """A command id made at `at_s`; different numbers give different ids."""
    return uuid7(int(at_s * 1000), number)


def new_item(work_type: str = "feature", **fields: Any) -> Raw:
    """An encoded `NewItem`; `payload` is given as a Python value."""
    if "payload" in fields:
        fields["payload"] = Raw(msgspec.json.encode(fields["payload"]))
    return Raw(msgspec.json.encode(NewItem(work_type, **fields)))


def shard_map(shard_count: int = 16, shard_key: str = "hash", version: int = 1) -> ShardMap:
    """A map with this many shards."""
    return ShardMap(version, shard_count, shard_key, "consistent_hash", ["c1", "c2"])


def beat(name: str, **fields: Any) -> Beat:
    """A coordinator's beat."""
    return Beat(
        name, fields.pop("instance", f"{name}-i1"), FORMAT, fields.pop("number", 1), **fields
    )


def refusal_of(action: Callable[[], object]) -> Refusal:
    """The refusal that `action` ends with; fails when it does not."""
    with pytest.raises(Refusal) as caught:
        action()
    return caught.value


class Desk:
    """A shard under its owner: decides commands, and keeps the log that they make.

    `log` holds every entry ever written; what lies below `first_seq` has been purged.
    """

    def __init__(
        self, rules: ShardRules | None = None, number: int = SHARD, format_: int = FORMAT
    ) -> None:
        self.rules = rules or ShardRules()
        self.shard = Shard(number, self.rules)
        self.now = NOW
        self.log: list[bytes] = []
        self.first_seq = 1
        self.nonce = ""
        #: Of the entries to be written, and what retries are spread by.
        self.format = format_
        self.jitter = 0.5
        self.full = False
        #: Finished items outside of the log, encoded.
        self.records: dict[int, bytes] = {}
        self.position = LogPosition(LOG)
        self._ids = itertools.count(1)
        self.open("c1")

    # --- the log -------------------------------------------------------------------

    def open(self, coordinator: str) -> None:
        """A new owner: an `Opened` entry under the next epoch."""
        self.nonce = f"nonce{self.position.epoch + 1}"
        opened = Opened(coordinator)
        self.shard.seq = self.position.at + 1
        self.shard.apply(opened, self.now, self.nonce)
        self.append([opened])

    def append(self, events: list[Event]) -> None:
        """One entry of the log, with events that are applied already."""
        position = self.position
        opens = bool(events) and isinstance(events[0], Opened)
        entry = LogEntry(
            swarm=self.format,
            incarnation="i1",
            epoch=position.epoch + 1 if opens else position.epoch,
            owner=self.nonce,
            batch=0 if opens else position.batch + 1,
            previous=position.last,
            map_version=1,
            now=self.now,
            events=events,
        )
        self.log.append(encode_entry(entry))
        link = position.advance(len(self.log), entry)
        assert link is Link.OURS, link

    def batch(self) -> Batch:
        """A batch to decide in, which will be the next entry."""
        self.shard.seq = self.position.at + 1
        return Batch(
            self.shard,
            self.nonce,
            self.now,
            format_=self.format,
            rng=lambda: self.jitter,
            full=self.full,
        )

    def decide(self, work: Callable[[Batch], T]) -> T:
        """Decide in a batch of its own and append it, empty after a refusal.

        An archived item that it is about is read first, as the worker does.
        """
        batch = self.batch()
        try:
            return work(batch)
        except NotInMemory as gone:
            record = msgspec.json.decode(self.records[gone.number], type=Item)
            self.shard.thawed[gone.number] = record
            return work(batch)
        finally:
            self.append(batch.events)

    def entry(self, seq: int = 0) -> LogEntry:
        """The entry of this sequence, the latest by default."""
        seq = seq or len(self.log)
        entry = decode_entry(LOG, seq, self.log[seq - 1])
        assert entry is not None, "ours"
        return entry

    def refold(self, first_seq: int = 0, last_seq: int = 0) -> Shard:
        """The shard as anybody makes it from the stored bytes of the log.

        From `first_seq`, by default from where the log begins, to its end or `last_seq`.
        """
        first_seq = first_seq or self.first_seq
        shard = Shard(self.shard.number, self.rules, first_seq)
        position = LogPosition.before(LOG, first_seq)
        for seq in range(first_seq, (last_seq or len(self.log)) + 1):
            entry = self.entry(seq)
            link = position.advance(seq, entry)
            assert link is Link.OURS, link
            shard.seq = seq
            for event in entry.events:
                shard.apply(event, entry.now, entry.owner)
        return shard

    def take_over(self, coordinator: str = "c2") -> None:
        """Another owner goes on with what the log says."""
        self.shard = self.refold()
        assert self.shard.complete, "the log says all there is to know"
        self.open(coordinator)

    # --- upkeep ----------------------------------------------------------------------

    def compact(self, wanted: int = 1_000_000, bytes_max: int = 1_000_000) -> int:
        """State again what was stated longest ago; the bytes that it took."""
        return self.decide(lambda out: upkeep.compact(self.shard, out, wanted, bytes_max))

    def mark(self) -> int:
        """Say what is needed from here on; that sequence."""
        return self.decide(lambda out: upkeep.mark(self.shard, out))

    def purge(self) -> None:
        """Drop what the latest mark says that nobody needs."""
        assert self.first_seq <= self.shard.needs <= len(self.log), "only what is there"
        self.first_seq = self.shard.needs

    def archive(self, *numbers: int) -> None:
        """Put these ended items into the records, and say so."""
        for number in numbers:
            self.records[number] = msgspec.json.encode(self.shard.items[number])
        self.decide(lambda out: out.add(Archived(list(numbers))))

    def due(self) -> list[str]:
        """Do what has come due; why claims ended by it."""
        stopped = self.decide(lambda out: decide.due(self.shard, out, 1000))
        return [why for _, _, why in stopped]

    # --- commands ------------------------------------------------------------------

    def new_id(self) -> str:
        """A fresh command id, made now."""
        return command_id(next(self._ids), self.now)

    def submit(
        self, *items: Raw, id_: str = "", retry: int = 0, indexes: list[int] | None = None
    ) -> SubmitReply:
        """Submit these items."""
        order = list(range(len(items))) if indexes is None else indexes
        command = ShardSubmit(id_ or self.new_id(), list(items), order, 1, retry)
        return self.decide(lambda batch: decide.submit(self.shard, command, batch))

    def submit_ids(self, *items: Raw) -> list[str]:
        """Submit these items, each of which must be accepted; their ids in order."""
        results = sorted(self.submit(*items).results, key=lambda result: result.index)
        assert [result.error for result in results] == [None] * len(items)
        return [result.work_item_id for result in results]

    def claim(
        self, agent: str, *work_types: str, id_: str = "", retry: int = 0, lease_s: float = 0.0
    ) -> Assignment:
        """Claim by name."""
        types = list(work_types) or ["feature"]
        command = Claim(id_ or self.new_id(), types, lease_s, retry)
        return self.decide(lambda batch: decide.claim(self.shard, command, agent, batch))

    def take(self, agent: str, session: str = "s1", work_type: str = "feature") -> Assignment:
        """Serve a free slot of an agent session."""
        number = self.shard.lanes.best([work_type])
        assert number is not None, "nothing is ready"
        item = self.decide(lambda batch: decide.take(self.shard, number, agent, session, batch))
        return decide.assignment(self.shard.number, item)

    def tell(self, command: ItemCommand, sender: str) -> Ack:
        """A command about a held item."""
        return self.decide(lambda batch: decide.item_command(self.shard, command, sender, batch))

    def complete(self, held: Assignment, sender: str, result: object = None) -> Ack:
        """Complete what is held; `result` is a Python value."""
        raw = Raw(msgspec.json.encode(result))
        return self.tell(Complete(self.new_id(), held.work_item_id, held.token, raw), sender)

    def fail(self, held: Assignment, sender: str, error: str = "boom", **fields: Any) -> Ack:
        """Fail what is held; it is tried again while attempts are left."""
        command = Fail(self.new_id(), held.work_item_id, held.token, error, **fields)
        return self.tell(command, sender)

    def die(self, held: Assignment, sender: str, error: str = "boom") -> Ack:
        """Fail what is held, for good."""
        return self.fail(held, sender, error, final=True)

    def release(
        self, held: Assignment, sender: str, id_: str = "", retry: int = 0, **fields: Any
    ) -> Ack:
        """Hand back what is held."""
        command = Release(
            id_ or self.new_id(), held.work_item_id, held.token, "why", retry, **fields
        )
        return self.tell(command, sender)

    def progress(
        self,
        held: Assignment,
        sender: str,
        percent: float = 40.0,
        note: str = "half way",
        id_: str = "",
        retry: int = 0,
        **fields: Any,
    ) -> Ack:
        """Report progress of what is held."""
        id_ = id_ or self.new_id()
        command = Progress(id_, held.work_item_id, held.token, percent, note, retry, **fields)
        return self.tell(command, sender)

    def wait(self, held: Assignment, sender: str, what: object = "ok?", **fields: Any) -> Ack:
        """Hand what is held to somebody outside; `what` is a Python value."""
        raw = Raw(msgspec.json.encode(what))
        command = Wait(self.new_id(), held.work_item_id, held.token, raw, **fields)
        return self.tell(command, sender)

    def lapse(self, held: Assignment, cause: TakenBack = "lapsed") -> None:
        """The holder fell silent, or whatever else `cause` says."""
        number = number_of(held.work_item_id)
        self.decide(lambda batch: decide.give_up(self.shard, number, cause, "silent", batch))

    def control(self, command: ItemControl, sender: str = "op") -> Ack:
        """A command of somebody who does not hold the item."""
        return self.decide(lambda batch: decide.item_control(self.shard, command, sender, batch))

    def cancel(self, item: str, sender: str = "op", **fields: Any) -> Ack:
        """The item is not wanted any more."""
        return self.control(Cancel(self.new_id(), item, **fields), sender)

    def prioritize(self, item: str, priority: Priority) -> Ack:
        """The item is more, or less, urgent."""
        return self.control(Prioritize(self.new_id(), item, priority))

    def retry(self, item: str, sender: str = "op") -> Ack:
        """Queue a dead, scheduled or blocked item now."""
        return self.control(Retry(self.new_id(), item), sender)

    def answer(self, item: str, answer: object, sender: str = "op", wait: int = 0) -> Ack:
        """What a waiting item waits for; `answer` is a Python value."""
        raw = Raw(msgspec.json.encode(answer))
        return self.control(Answer(self.new_id(), item, raw, wait), sender)

    def edge(self, message: Edge) -> Edge | None:
        """A message from another shard about a dependency."""
        return self.decide(lambda batch: decide.edge(self.shard, message, batch))

    def item(self, number: int = 1) -> Item:
        """The item as the shard has it."""
        return self.shard.items[number]

    def status(self, number: int = 1) -> str:
        """Where in its life the item is."""
        return self.item(number).status


def number_of(work_item_id: str) -> int:
    """The item's number."""
    return int(work_item_id.partition("-")[2])
