"""Bugs that the simulation must find: each breaks one rule of the code, and only it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from swarm.actors import opening, ownership
from swarm.actors.answers import Answers
from swarm.actors.deciding import Deciding
from swarm.actors.finished import FinishedItems, read_finished
from swarm.actors.presence import Presence
from swarm.actors.requests import Request
from swarm.actors.server_clock import ServerClock
from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Entry
from swarm.bus.log import FencedLog
from swarm.bus.log_reader import LogReader
from swarm.core import admission, decide
from swarm.core import cluster as core_cluster
from swarm.core.cluster import Cluster
from swarm.core.dedupe import DedupeWindow
from swarm.core.envelope import FORMAT, decode_as, encode_entry
from swarm.core.leases import Leases, Missing
from swarm.core.sessions import Sessions
from swarm.core.shard import Shard
from swarm.errors import AppendRefused, Deposed
from swarm.messages import (
    Attach,
    Attached,
    Attention,
    Event,
    Get,
    Item,
    List,
    LogEntry,
    NewItem,
    Opened,
    ShardSubmit,
    Stats,
    SubmitReply,
)
from swarm.runtime import Runtime
from swarm.testing.sim.mechanisms import resizing

Patch = pytest.MonkeyPatch


def no_barrier_after_a_timeout(patch: Patch) -> None:
    """A timed-out append is taken for stored."""

    async def assume(self: FencedLog, unknown: Exception, data: bytes) -> int | None:
        return self.position.at + 1

    patch.setattr(FencedLog, "_after_unknown", assume)


def duplicate_answered_too_early(patch: Patch) -> None:
    """A repeated submission is answered at once, its original perhaps not yet durable."""
    workers, original = _workers(patch), Deciding._decide

    def decide_(
        self: Deciding, request: Request, body: object, batch: decide.Batch, answers: Answers
    ) -> None:
        known = isinstance(body, ShardSubmit) and self.shard.commands.get(body.command_id)
        if known and isinstance(body, ShardSubmit):
            reply = decide.submit(self.shard, body, batch)
            worker = workers[self.shard.number, batch.nonce]
            worker._around.send.soon(request.reply, msgspec.json.encode(reply))
            return
        original(self, request, body, batch, answers)

    patch.setattr(Deciding, "_decide", decide_)


def _workers(patch: Patch) -> dict[tuple[int, str], ShardWorker]:
    """Every worker there is from now on, by its shard and nonce."""
    workers: dict[tuple[int, str], ShardWorker] = {}
    original = ShardWorker.__init__

    def init(self: ShardWorker, around: Surroundings, shard: Shard, fenced: FencedLog) -> None:
        original(self, around, shard, fenced)
        workers[shard.number, fenced.owner] = self

    patch.setattr(ShardWorker, "__init__", init)
    return workers


def expected_sequence_from_the_error(patch: Patch) -> None:
    """A refused append is repeated with the sequence that the server named."""

    async def believe(self: FencedLog, refused: AppendRefused, data: bytes) -> int | None:
        self.position.at = refused.actual or 0
        return None

    patch.setattr(FencedLog, "_after_refusal", believe)


def two_appends_in_flight(patch: Patch) -> None:
    """A batch goes out as two entries at once."""
    original = FencedLog.append

    async def append(
        self: FencedLog, events: list[Event], now: float, format_: int = FORMAT
    ) -> int:
        if len(events) < 2:
            return await original(self, events, now, format_)
        position = self.position
        entries = [
            LogEntry(
                FORMAT,
                self.incarnation,
                self.epoch,
                self.owner,
                self._batch + number,
                previous,
                self.map_version,
                now,
                part,
            )
            for number, previous, part in (
                (0, position.last, events[:1]),
                (1, position.at + 1, events[1:]),
            )
        ]
        sent = [
            self._bus.append(position.log, encode_entry(entry), position.at + number, 1.0)
            for number, entry in enumerate(entries)
        ]
        seqs = await asyncio.gather(*sent, return_exceptions=True)
        for seq, entry in zip(seqs, entries, strict=True):
            if isinstance(seq, BaseException):
                raise Deposed("an append failed") from seq
            position.advance(seq, entry)
        self._batch += 2
        self.proven_at = self._clock()
        return position.at

    patch.setattr(FencedLog, "append", append)


def unlisted_items_renewed(patch: Patch) -> None:
    """A heartbeat renews all that its session holds."""

    def heartbeat(self: Leases, held: list[int], listed: object, now: float) -> Missing:
        for number in held:
            self.renew(number, now)
        return Missing([], [])

    patch.setattr(Leases, "heartbeat", heartbeat)


def no_session_in_the_token(patch: Patch) -> None:
    """All processes of one agent id share a session."""
    original = Runtime.new_name

    def new_name(self: Runtime, stem: str) -> str:
        return "shared" if stem == "s" else original(self, stem)

    patch.setattr(Runtime, "new_name", new_name)


def deposed_owner_answers(patch: Patch) -> None:
    """The answers of a batch leave although its append was refused."""
    original = FencedLog.append

    async def append(self: FencedLog, events: list[Event], now: float, format_: int = 2) -> int:
        try:
            return await original(self, events, now, format_)
        except Deposed:
            if events and isinstance(events[0], Opened):
                raise  # opening has no answers
            return self.position.at

    patch.setattr(FencedLog, "append", append)


def gap_ignored_by_a_reader(patch: Patch) -> None:
    """A reader takes the next entry it gets for the next one of the log."""
    original = LogReader.fold

    def fold(self: LogReader[Any], stored: Entry) -> bool:
        entry = decode_as(self._kind, self._log, stored.seq, stored.data)
        position = self.position
        if entry is not None and entry.previous > position.last:
            opens = bool(entry.events) and isinstance(entry.events[0], Opened)
            position.at = stored.seq - 1
            position.last, position.owner = entry.previous, entry.owner
            position.epoch = entry.epoch - 1 if opens else entry.epoch
            position.batch = entry.batch - 1
        return original(self, stored)

    patch.setattr(LogReader, "fold", fold)


def reads_answered_from_memory(patch: Patch) -> None:
    """An owner answers reads at once from what it remembers, without an append."""
    workers, original = _workers(patch), Deciding._decide

    def decide_(
        self: Deciding, request: Request, body: object, batch: decide.Batch, answers: Answers
    ) -> None:
        if not isinstance(body, Get | List | Stats):
            original(self, request, body, batch, answers)
            return
        now = Answers()
        original(self, request, body, batch, now)
        worker = workers[self.shard.number, batch.nonce]
        for to, data in now.readings(worker.sequence):
            worker._around.send.soon(to, data)

    patch.setattr(Deciding, "_decide", decide_)


def leases_on_the_wall_clock(patch: Patch) -> None:
    """Leases run by the machine's clock, which may be set."""
    original = ShardWorker.__init__

    def init(self: ShardWorker, around: Surroundings, shard: Shard, fenced: FencedLog) -> None:
        original(self, around, shard, fenced)
        monotonic, off_s = self._clock, self._log_time_off_s
        self._clock = self._deciding.clock = around.runtime.wall
        # The log's time is another matter.
        patch.setattr(self, "_now", lambda: max(monotonic() + off_s, fenced.position.now))
        self._leases.restart(self._clock())

    patch.setattr(ShardWorker, "__init__", init)


def any_clock_may_open(patch: Patch) -> None:
    """An owner opens a shard although its clock is hours off."""

    async def no_look(self: ServerClock) -> None:
        self._good_at = None

    patch.setattr(ServerClock, "check", no_look)


def lapses_without_hearing(patch: Patch) -> None:
    """An owner that was stopped gives up what it holds before it has heard anybody."""
    patch.setattr(Presence, "hearing", lambda self: self._bus.connected)


def time_goes_back_with_the_clock(patch: Patch) -> None:
    """Entries carry the time that the machine's clock shows, even if it was set back."""
    patch.setattr(ShardWorker, "_now", lambda self: self._around.runtime.wall())
    original = FencedLog.append

    async def append(self: FencedLog, events: list[Event], now: float, format_: int = 2) -> int:
        self.position.now = min(self.position.now, now)
        return await original(self, events, now, format_)

    patch.setattr(FencedLog, "append", append)


def dedupe_forgotten_at_takeover(patch: Patch) -> None:
    """Who opens a shard does not know which commands were carried out before."""
    original = opening.open_shard

    async def open_shard(around: Surroundings, *arguments: Any) -> ShardWorker:
        worker = await original(around, *arguments)
        rules = worker._shard.rules
        worker._shard.commands = DedupeWindow(rules.dedupe_window_s, rules.dedupe_count)
        return worker

    patch.setattr(ownership, "open_shard", open_shard)


def slots_on_their_way_stay_so(patch: Patch) -> None:
    """A slot that was lent, or an assignment, that got lost is never counted again."""
    patch.setattr("swarm.core.credits.SETTLE_S", 1e9)


def heartbeats_without_a_pause(patch: Patch) -> None:
    """Agents are told to send heartbeats much more often than they should."""
    original = Sessions.attach

    def attach(
        self: Sessions, agent: str, session: str, attach: Attach, now: float
    ) -> tuple[Attached, Attention]:
        attached, attention = original(self, agent, session, attach, now)
        return msgspec.structs.replace(attached, heartbeat_s=0.1), attention

    patch.setattr(Sessions, "attach", attach)


def two_processes_of_one_agent(patch: Patch) -> None:
    """A coordinator does not hear that a session of the same agent id was taken on elsewhere."""
    patch.setattr(Sessions, "attention", lambda self, agent, heard, now: [])
    # Nor does it say so again: two that do not listen would do that for ever.
    patch.setattr(Sessions, "dispute", lambda self, agent, session: None)


def no_record_means_no_item(patch: Patch) -> None:
    """Whoever answers that there is no record of an archived item is believed."""

    async def find(self: FinishedItems, number: int) -> Item | None:
        return await read_finished(self._bus, self._records, number, 0)

    patch.setattr(FinishedItems, "_find", find)


def earlier_shards_not_asked(patch: Patch) -> None:
    """What has another shard by now is accepted there without asking the one that had it."""
    patch.setattr(admission, "may_have", lambda *_: False)


def moved_items_refused(patch: Patch) -> None:
    """A shard takes what has moved to it for the misuse of a command id that it knows."""
    # Every swarm is resized, so that more has moved.
    patch.setattr(resizing, "PART", 1.0)
    original = decide.submit

    def submit(
        shard: Shard, command: ShardSubmit, out: decide.Batch, specs: list[NewItem] | None = None
    ) -> SubmitReply:
        return original(shard, msgspec.structs.replace(command, moved=[]), out, specs)

    patch.setattr(decide, "submit", submit)


def control_commands_forgotten(patch: Patch) -> None:
    """Who leads does not know which control commands were carried out before."""
    original = Cluster._opened

    def opened(self: Cluster, event: Opened) -> None:
        original(self, event)
        self.commands.clear()

    patch.setattr(Cluster, "_opened", opened)
    patch.setitem(core_cluster._APPLY, Opened, opened)


#: Each bug, and the kinds of mishaps that bring it to light.
PLANTED: list[tuple[Callable[[Patch], None], tuple[str, ...]]] = [
    (no_barrier_after_a_timeout, ()),
    (duplicate_answered_too_early, ("stall",)),
    (expected_sequence_from_the_error, ("foreign", "pause")),
    (two_appends_in_flight, ("foreign",)),
    (unlisted_items_renewed, ()),
    (no_session_in_the_token, ()),
    (deposed_owner_answers, ("pause",)),
    (gap_ignored_by_a_reader, ("crash",)),
    (reads_answered_from_memory, ("pause",)),
    (leases_on_the_wall_clock, ("clock",)),
    (any_clock_may_open, ()),
    (lapses_without_hearing, ("deaf",)),
    (time_goes_back_with_the_clock, ("clock",)),
    (dedupe_forgotten_at_takeover, ("crash",)),
    (slots_on_their_way_stay_so, ()),
    (heartbeats_without_a_pause, ()),
    (two_processes_of_one_agent, ("crash",)),
    (no_record_means_no_item, ("crash", "partition")),
    (earlier_shards_not_asked, ()),
    (moved_items_refused, ("partition",)),
    (control_commands_forgotten, ("crash",)),
]
