"""Writes a log with everything in it: a shard under several owners, at random."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from msgspec import Raw, structs

from swarm.core import decide, upkeep
from swarm.core.decide import Batch
from swarm.core.envelope import FORMAT, Link, LogPosition, decode_entry, encode_entry
from swarm.core.ids import uuid7
from swarm.core.shard import Shard, ShardRules
from swarm.errors import NotInMemory, Refusal
from swarm.messages import (
    Answer,
    Archived,
    Cancel,
    Complete,
    Event,
    Fail,
    Heard,
    Item,
    LogEntry,
    Opened,
    Outcome,
    Prioritize,
    Progress,
    Release,
    Retry,
    ShardSubmit,
    Wait,
    Watch,
)
from swarm.subjects import item_id
from tests.builders import LOG, NOW, SHARD, new_item

RULES = ShardRules(dedupe_window_s=900.0, dedupe_count=60, backoff_s=5.0, wait_s=120.0)
OTHER = SHARD + 1
_encode = msgspec.json.encode


class Scribe:
    """One shard; `write` goes on with its log.  `log[n - 1]` is entry n."""

    def __init__(self, seed: int, rules: ShardRules = RULES) -> None:
        self.rng = Random(seed)
        self.rules = rules
        self.shard = Shard(SHARD, rules)
        self.position = LogPosition(LOG)
        self.log: list[bytes] = []
        #: What the records of archived items say, by number.
        self.records: dict[int, list[Item]] = {}
        self.now = NOW
        self._owner = ""
        self._batch = 0
        self._keys = 0

    def write(self, entries: int) -> list[bytes]:
        """This many more entries; the whole log."""
        if not self.log:
            self.open()
        for _ in range(entries):
            self.now += self.rng.choice((0.0, 0.1, 1.0, 20.0))
            if self.rng.random() < 0.03:
                self.open()
            else:
                self.round()
        return self.log

    # --- entries -----------------------------------------------------------------------

    def open(self) -> None:
        """Somebody else owns it from here on, with the state that the log gives."""
        self._owner = f"nonce{self.position.epoch + 1}"
        self.shard.seq = self.position.at + 1
        opened = Opened(f"c{self.position.epoch % 2}")
        self.shard.apply(opened, self.now, self._owner)
        self._append([opened], opens=True)

    def round(self) -> None:
        """One batch of a few commands, and some upkeep."""
        self.shard.seq = self.position.at + 1
        batch = Batch(self.shard, self._owner, self.now, 1, FORMAT, self.rng.random)
        if self.shard.timers.next_at <= batch.now:
            decide.due(self.shard, batch, 100)
        for _ in range(self.rng.randrange(5)):
            try:
                self.rng.choice(_COMMANDS)(self, batch)
            except Refusal:
                pass  # as a client's request may be: it leaves no event
            except NotInMemory:
                pass  # an archived item: its owner would read the record
        self._upkeep(batch)
        self._append(batch.events)

    def _append(self, events: list[Event], *, opens: bool = False) -> None:
        position = self.position
        entry = LogEntry(
            swarm=FORMAT,
            incarnation="i1",
            epoch=position.epoch + opens,
            owner=self._owner,
            batch=0 if opens else position.batch + 1,
            previous=position.last,
            map_version=1,
            now=self.now,
            events=events,
        )
        self.log.append(encode_entry(entry))
        assert position.advance(len(self.log), entry) is Link.OURS

    def _upkeep(self, batch: Batch) -> None:
        rng, shard = self.rng, self.shard
        if rng.random() < 0.2:
            numbers = decide.may_archive(shard, 5, self.now - 300.0, 10)
            for number in numbers:
                kept = msgspec.json.decode(_encode(shard.items[number]), type=Item)
                self.records.setdefault(number, []).append(kept)
            if numbers:
                batch.add(Archived(numbers))
        if rng.random() < 0.6:
            upkeep.compact(shard, batch, 3000, 50_000)
        if rng.random() < 0.1 and upkeep.needs(shard) > shard.needs:
            upkeep.mark(shard, batch)

    # --- commands -----------------------------------------------------------------------

    def new_id(self) -> str:
        """A fresh command id."""
        return uuid7(int(self.now * 1000), self.rng.getrandbits(74))

    def some(self, *statuses: str) -> Item | None:
        """An item in one of these states."""
        found = [item for item in self.shard.items.values() if item.status in statuses]
        return self.rng.choice(found) if found else None

    def submit(self, batch: Batch) -> None:
        items = [self._item() for _ in range(self.rng.randrange(1, 5))]
        command = ShardSubmit(self.new_id(), items, list(range(len(items))), 1)
        decide.submit(self.shard, command, batch)

    def _item(self) -> Raw:
        rng = self.rng
        fields: dict[str, Any] = {"payload": {"n": rng.randrange(1000)}, "max_attempts": 2}
        kind = rng.randrange(8)
        if kind == 0:
            self._keys += rng.randrange(2)
            fields |= {"idempotency_key": f"k{self._keys}", "payload": None}
        elif kind == 1:
            fields["not_before"] = self.now + 30.0
        elif kind == 2:
            fields["deadline"] = self.now + 60.0
        elif kind == 3:
            on = rng.randrange(1, self.shard.next_number + 1)
            fields["dependencies"] = [item_id(SHARD, on), item_id(OTHER, on)][: rng.randrange(3)]
            fields["on_dependency_failure"] = rng.choice(("block", "run", "cancel"))
        return new_item(**fields)

    def claim(self, batch: Batch) -> None:
        number = self.shard.lanes.best(["feature"])
        if number is not None:
            agent = f"a{self.rng.randrange(3)}"
            decide.take(self.shard, number, agent, f"s-{agent}", batch)

    def hold(self, batch: Batch) -> None:
        item = self.some("claimed")
        if item is None or item.hold is None:
            return
        name, token, sender = item_id(SHARD, item.number), item.hold.token, item.hold.agent
        command: Any = self.rng.choice(
            (
                Complete(self.new_id(), name, token, Raw(b'{"done":true}')),
                Complete(self.new_id(), name, token),
                Fail(self.new_id(), name, token, "boom"),
                Release(self.new_id(), name, token, "why", checkpoint=Raw(b"[1]")),
                Progress(self.new_id(), name, token, 50.0, "half way"),
                Wait(self.new_id(), name, token, Raw(b'"an answer"')),
                Wait(self.new_id(), name, token, Raw(b"1"), on_expiry="resume"),
            )
        )
        decide.item_command(self.shard, command, sender, batch)
        if self.rng.random() < 0.2:
            again = structs.replace(command, retry=1)
            decide.item_command(self.shard, again, sender, batch)

    def give_up(self, batch: Batch) -> None:
        item = self.some("claimed")
        if item is not None:
            cause: Any = self.rng.choice(("lapsed", "unlisted", "stalled", "trouble"))
            decide.give_up(self.shard, item.number, cause, "silent", batch)

    def control(self, batch: Batch) -> None:
        item = self.some("queued", "scheduled", "blocked", "waiting", "claimed", "dead")
        if item is None:
            return
        name = item_id(SHARD, item.number)
        command = self.rng.choice(
            (
                Cancel(self.new_id(), name, "not wanted", self.rng.choice((0.0, 20.0))),
                Prioritize(self.new_id(), name, "critical"),
                Retry(self.new_id(), name),
                Retry(self.new_id(), name),
                Answer(self.new_id(), name, Raw(b"42")),
            )
        )
        decide.item_control(self.shard, command, "ops", batch)

    def watch(self, batch: Batch) -> None:
        item = self.some("queued", "claimed", "completed", "dead", "scheduled")
        if item is not None:
            dependent = item_id(OTHER, self.rng.randrange(1, 50))
            decide.edge(self.shard, Watch(item_id(SHARD, item.number), dependent), batch)

    def outcome(self, batch: Batch) -> None:
        item = self.some("blocked")
        if item is not None and item.story is not None:
            status: Any = self.rng.choice(("completed", "dead", "cancelled"))
            on = self.rng.choice(list(item.story.depends))
            told = Outcome(on, item_id(SHARD, item.number), status, Raw(b'"r"'))
            decide.edge(self.shard, told, batch)

    def heard(self, batch: Batch) -> None:
        for number in list(self.shard.untold)[:2]:
            item = self.shard.items[number]
            assert item.end is not None
            assert item.story is not None
            dependent = next(iter(item.story.dependents))
            heard = Heard(item_id(SHARD, number), dependent, item.end.status)
            decide.edge(self.shard, heard, batch)


_COMMANDS = [
    Scribe.submit,
    Scribe.claim,
    Scribe.claim,
    Scribe.hold,
    Scribe.hold,
    Scribe.give_up,
    Scribe.control,
    Scribe.watch,
    Scribe.outcome,
    Scribe.heard,
]


def edited(data: bytes, **fields: Any) -> bytes:
    """The entry with other fields in its envelope."""
    entry = decode_entry(LOG, 1, data)
    assert entry is not None, "ours"
    return encode_entry(structs.replace(entry, **fields))


def events_of(data: bytes) -> list[Event]:
    """The events of the entry."""
    entry = decode_entry(LOG, 1, data)
    assert entry is not None, "ours"
    return entry.events
