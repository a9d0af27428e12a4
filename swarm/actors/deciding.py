"""What a shard's owner does with each request of a round: decode, decide, collect answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from swarm.actors.answers import Answers, error_body
from swarm.actors.requests import Request, decode
from swarm.actors.waiters import Waiters
from swarm.core import decide, read
from swarm.core.edge_book import EdgeBook
from swarm.core.leases import Lease, Leases
from swarm.core.shard import Shard
from swarm.core.usage import UsageCounter
from swarm.core.work import view
from swarm.errors import NotInMemory, Refusal
from swarm.messages import (
    Ack,
    Answer,
    Asked,
    Cancel,
    Claim,
    Claimed,
    Complete,
    Completed,
    Control,
    Event,
    Fail,
    Get,
    Heartbeat,
    Hold,
    Item,
    List,
    Outcome,
    Prioritize,
    Progress,
    Release,
    Renew,
    Retry,
    ShardStats,
    ShardSubmit,
    Stats,
    Submitted,
    Wait,
    Watch,
    Watching,
)
from swarm.messages import Heard as HeardOutcome
from swarm.subjects import item_id, parse_item_id

#: What nearly all events are; about one item.
_USUAL = (Claimed, Completed)
#: Most items that come due at once.
DUE_MAX = 1000


class Settled(NamedTuple):
    """What follows from a batch's events when they are durable."""

    #: Leases of items that were claimed, and items that nobody holds any more.
    begun: dict[int, Lease]
    over: list[int]
    #: Items that somebody waits for.
    awaited: list[int]


@dataclass(slots=True)
class Deciding:
    """One shard under its owner; everything here happens between two appends."""

    shard: Shard
    leases: Leases
    waiters: Waiters
    edges: EdgeBook
    clock: Callable[[], float]
    max_payload: int
    #: Decide this request again once the archived item has been read.
    thaw: Callable[[int, Request], None]
    #: Decide this request in the next round.
    again: Callable[[Request], None]
    #: Counts of the shard, with what only its worker knows.
    stats: Callable[[], ShardStats]
    #: Commands refused, by error code.
    refused: dict[str, int]
    #: Who uses the shard.
    usage: UsageCounter

    def take(self, request: Request, batch: decide.Batch, answers: Answers) -> None:
        """Decide one request; whatever is wrong with it is its answer."""
        try:
            body = request.body
            remote = isinstance(body, bytes)
            if remote:
                body = decode(request)
            self.usage.asked(body, remote)
            self._decide(request, body, batch, answers)
        except NotInMemory as archived:
            self.thaw(archived.number, request)
        except Refusal as refusal:
            self._refuse(request, refusal, answers)

    def _decide(
        self, request: Request, body: object, batch: decide.Batch, answers: Answers
    ) -> None:
        shard, sender = self.shard, request.sender
        match body:
            case Complete() | Fail() | Release() | Progress() | Wait():
                ack = decide.item_command(shard, body, sender, batch, request.number)
                if isinstance(body, Progress) and ack.lease_s > 0:
                    self.leases.progressed(parse_item_id(body.work_item_id)[1], self.clock())
                if request.session:
                    answers.ack(sender, request.session, ack)
                else:
                    answers.reply(request.reply, ack)
            case ShardSubmit():
                if request.verb == "known":
                    answers.reply(request.reply, decide.known(shard, body, batch))
                    return
                answers.reply(request.reply, decide.submit(shard, body, batch, request.specs))
            case Heartbeat():
                self._heartbeat(sender, body, batch, answers)
            case Claim():
                self.look_after_time(batch, answers)
                answers.reply(request.reply, decide.claim(shard, body, sender, batch))
                self.usage.claimed()
            case Renew():
                ack = decide.renew(shard, body, sender)
                self.leases.renew(parse_item_id(body.work_item_id)[1], self.clock())
                answers.reply(request.reply, ack)
            case Cancel() | Prioritize() | Retry() | Answer():
                self._control(request, body, batch, answers)
            case Watch() | Watching() | Outcome() | HeardOutcome():
                self._edge(body, batch, answers)
            case Get():
                self._get(request, body, answers)
            case List():
                read.check_query(body)
                bytes_max = self.max_payload // 2
                answers.reading(request.reply, lambda: read.page(shard, body, bytes_max))
            case Stats():
                answers.reading(request.reply, self.stats)
            case _:
                raise Refusal("bad_request", f"a shard does not understand {request.verb!r}")

    def _refuse(self, request: Request, refusal: Refusal, answers: Answers) -> None:
        self.refused[refusal.code] = self.refused.get(refusal.code, 0) + 1
        if request.session and isinstance(
            request.body, Complete | Fail | Release | Progress | Wait
        ):
            command = request.body
            ack = Ack(command.command_id, command.work_item_id, error=error_body(refusal))
            answers.ack(request.sender, request.session, ack)
            return
        answers.reply(request.reply, {"error": error_body(refusal)})

    # --- agents ----------------------------------------------------------------------------

    def _heartbeat(
        self, agent: str, heartbeat: Heartbeat, batch: decide.Batch, answers: Answers
    ) -> None:
        shard, session = self.shard, heartbeat.session
        held = shard.held.get((agent, session), {})
        listed: dict[int, None] = {}
        for work_item_id, token in heartbeat.held:
            number = parse_item_id(work_item_id)[1]
            hold = shard.items[number].hold if number in held else None
            if hold is not None and hold.token == token:
                listed[number] = None
                self._remind(shard.items[number], hold, batch.now, answers)
            else:
                stop = Control("stop", work_item_id, token, "this claim has ended")
                answers.control(agent, session, stop)
        missing = self.leases.heartbeat(list(held), listed, self.clock())
        for number in missing.resend:
            item = shard.items[number]
            assert item.hold is not None, "only held items are missed"
            answers.assign(agent, session, item)
        for number in missing.release:
            decide.give_up(shard, number, "unlisted", "its agent never listed it", batch)

    # --- control ------------------------------------------------------------------------------

    def _control(
        self,
        request: Request,
        body: Cancel | Prioritize | Retry | Answer,
        batch: decide.Batch,
        answers: Answers,
    ) -> None:
        number = read.find(self.shard, body.work_item_id).number
        before = self.shard.items.get(number)
        hold = before.hold if before is not None else None
        ack = decide.item_control(self.shard, body, request.sender, batch)
        answers.reply(request.reply, ack)
        if hold is not None and before is not None and before.hold is None:
            self.stop_holder(number, hold, "it was cancelled", answers)

    def tell_asked(self, batch: decide.Batch, answers: Answers) -> None:
        """Tell the holders of items that this batch asks to stop."""
        for event in batch.events:
            if isinstance(event, Asked):
                item = self.shard.items.get(event.n)
                if item is not None and item.hold is not None:
                    self._remind(item, item.hold, batch.now, answers)

    def _remind(self, item: Item, hold: Hold, now: float, answers: Answers) -> None:
        """The holder was asked to stop: tell it (again)."""
        ask = item.story.ask if item.story is not None else None
        if ask is None:
            return
        name = item_id(self.shard.number, item.number)
        cancel = Control("cancel", name, hold.token, ask.reason, max(0.0, ask.until - now))
        answers.control(hold.agent, hold.session, cancel)

    def look_after_time(self, batch: decide.Batch, answers: Answers) -> None:
        """Queue what was scheduled for now, end what has run out of time."""
        if self.shard.timers.next_at > batch.now:
            return
        for number, hold, why in decide.due(self.shard, batch, DUE_MAX):
            self.stop_holder(number, hold, why, answers)

    def stop_holder(self, number: int, hold: Hold, why: str, answers: Answers) -> None:
        """This claim has ended, and its holder does not know."""
        name = item_id(self.shard.number, number)
        answers.control(hold.agent, hold.session, Control("stop", name, hold.token, why))

    # --- dependencies --------------------------------------------------------------------------

    def _edge(
        self,
        message: Watch | Watching | Outcome | HeardOutcome,
        batch: decide.Batch,
        answers: Answers,
    ) -> None:
        answer = decide.edge(self.shard, message, batch)
        about_dependent = isinstance(message, Watching | Outcome)
        mine = message.dependent if about_dependent else message.on
        self.edges.heard(parse_item_id(mine)[1], message)
        if answer is not None:
            answers.edge(answer)

    def tell_edges(self, batch: decide.Batch, answers: Answers, ticked: bool) -> None:
        """Tell other shards what this batch made news, and again what they do not know."""
        shard, now = self.shard, self.clock()
        if not shard.blocked and not shard.untold:
            return
        for event in batch.events:
            for number in numbers_of(event):
                for edge in self.edges.of(number, now):
                    answers.edge(edge)
        if ticked:
            for edge in self.edges.look(now):
                answers.edge(edge)

    # --- reading ------------------------------------------------------------------------------

    def _get(self, request: Request, get: Get, answers: Answers) -> None:
        item = read.find(self.shard, get.work_item_id)
        if get.wait_s > 0 and item.end is None and not self._differs(item, get.version):
            self.waiters.add(item.number, request, self.clock() + get.wait_s)
            return
        self.read_item(request.reply, item, answers)

    def _differs(self, item: Item, version: str) -> bool:
        return bool(version) and view(item, self.shard.number, 0).version != version

    def read_item(self, reply: str, item: Item, answers: Answers) -> None:
        """Answer with the item as it is once the batch is durable."""
        # The item itself: by then it may have been archived.
        answers.reading(reply, lambda: view(item, self.shard.number, 0))

    def _changed(self, number: int, answers: Answers) -> None:
        """An event about the item is durable: answer those who waited for that."""
        item = self.shard.items.get(number)
        for request in self.waiters.take(number):
            version = request.body.version if isinstance(request.body, Get) else ""
            if item is None:
                self.again(request)  # archived in the meantime
            elif item.end is not None or self._differs(item, version):
                self.read_item(request.reply, item, answers)
            else:
                self.waiters.put_back(number, request)

    def expire_waiters(self, put: Callable[[Request], None]) -> None:
        """Whoever waited long enough asks once more, without waiting."""
        for number, request in self.waiters.expired(self.clock()):
            again = Get(item_id(self.shard.number, number))
            put(msgspec.structs.replace(request, body=again))

    # --- leases ----------------------------------------------------------------------------------

    def settled(self, events: list[Event]) -> Settled:
        """What follows once these are in the log; found while they are on their way."""
        items, awaited = self.shard.items, self.waiters.items
        begun, over, waited_for = dict[int, Lease](), list[int](), list[int]()
        for event in events:
            numbers: Sequence[int]
            if isinstance(event, _USUAL):
                numbers = (event.n,)
            elif isinstance(event, Submitted):
                continue
            else:
                numbers = numbers_of(event)
            for number in numbers:
                item = items.get(number)
                hold = item.hold if item is not None else None
                if hold is None:
                    over.append(number)
                elif isinstance(event, Claimed):
                    begun[number] = self._lease(number, hold)
                if number in awaited:
                    waited_for.append(number)
        return Settled(begun, over, waited_for)

    def durable(self, settled: Settled, now: float, answers: Answers) -> None:
        """They are: leases begin or are over, and who waits for that is answered."""
        self.leases.end(settled.over)
        self.leases.begin(settled.begun, now)
        for number in settled.awaited:
            self._changed(number, answers)

    def begin_lease(self, number: int, hold: Hold, now: float) -> None:
        """The claim is in the log, and its lease was not known here: it runs from now on."""
        self.leases.begin({number: self._lease(number, hold)}, now)

    def _lease(self, number: int, hold: Hold) -> Lease:
        return Lease(hold.lease_s, self.shard.progress_s.get(number, 0.0))


def numbers_of(event: Event) -> Sequence[int]:
    """Items that the event is about."""
    number: int | Sequence[int] = getattr(event, "n", ())
    if isinstance(number, int):
        return (number,)  # nearly always
    if isinstance(event, Submitted):
        return range(event.first, event.first + len(event.items))
    return number
