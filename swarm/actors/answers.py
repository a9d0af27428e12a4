"""What a shard has to say once its batch is durable: collected first, sent after."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from swarm.core.decide import assignment
from swarm.errors import Refusal
from swarm.messages import (
    Ack,
    Assignment,
    Control,
    Edge,
    ErrorBody,
    Heard,
    Hold,
    Item,
    ItemPage,
    ShardStats,
    Watch,
    Work,
    WorkItem,
)
from swarm.subjects import Subjects, shard_of_id

_encode = msgspec.json.Encoder().encode

#: What readers get: true as of the batch's sequence, which is known only afterwards.
Reading = WorkItem | ItemPage | ShardStats


def error_body(refusal: Refusal) -> ErrorBody:
    """A refusal as it travels."""
    return ErrorBody(refusal.code, refusal.message, refusal.retry)


def error_reply(refusal: Refusal) -> bytes:
    """The reply that refuses a whole request."""
    return _encode({"error": error_body(refusal)})


class Answers:
    """Everything that leaves with one batch."""

    __slots__ = ("_assigned", "_controls", "_edges", "_readings", "_replies", "_work")

    def __init__(self) -> None:
        self._assigned: list[tuple[Work, Item, Hold | None]] = []
        self._replies: list[tuple[str, object]] = []
        self._readings: list[tuple[str, Callable[[], Reading]]] = []
        self._work: dict[tuple[str, str], Work] = {}
        self._controls: list[tuple[str, str, Control]] = []
        self._edges: list[Edge] = []

    def __bool__(self) -> bool:
        return bool(self._replies or self._readings or self._work or self._controls or self._edges)

    def reply(self, to: str, body: object) -> None:
        """`body` to a reply subject; nothing when the sender wants no answer."""
        if to:
            self._replies.append((to, body))

    def reading(self, to: str, read: Callable[[], Reading]) -> None:
        """What `read` returns once the batch is durable, to a reply subject.

        Not before: later commands of the same batch may change what is read.
        """
        if to:
            self._readings.append((to, read))

    def assign(self, agent: str, session: str, item: Item) -> None:
        """The item to the agent session that holds it, unless the batch ends this claim."""
        to = agent, session
        self._assigned.append((self._work.get(to) or self._work_for(to), item, item.hold))

    def ack(self, agent: str, session: str, ack: Ack) -> None:
        """The answer to a command that came with an agent's `Next`."""
        to = agent, session
        (self._work.get(to) or self._work_for(to)).acks.append(ack)

    def control(self, agent: str, session: str, control: Control) -> None:
        """Something an agent session must do."""
        self._controls.append((agent, session, control))

    def edge(self, edge: Edge) -> None:
        """A word about a dependency to the shard of the other item."""
        self._edges.append(edge)

    def encoded(
        self, subjects: Subjects, me: str, shard: int, bytes_max: int
    ) -> list[tuple[str, bytes]]:
        """(subject, data) of all but readings, to be sent by `me` once the batch is durable."""
        ready: list[tuple[str, bytes]] = []
        for work, item, hold in self._assigned:
            if item.hold is hold:
                work.items.append(assignment(shard, item))
        for (agent, session), work in self._work.items():
            if not work.items and not work.acks:
                continue
            subject = subjects.agent_work(agent, session)
            data = _encode(work)
            if len(work.items) <= 1 or len(data) <= bytes_max // 2:
                ready.append((subject, data))
                continue
            ready += [(subject, _encode(part)) for part in split_work(work, bytes_max // 2)]
        ready += [(to, _encode(body)) for to, body in self._replies]
        for agent, session, control in self._controls:
            ready.append((subjects.agent_control(agent, session), _encode(control)))
        for edge in self._edges:
            to_dependency = isinstance(edge, Watch | Heard)
            other = shard_of_id(edge.on if to_dependency else edge.dependent)
            if other >= 0:
                ready.append((subjects.shard(other, "edge", me), _encode(edge)))
        return ready

    def readings(self, as_of: int) -> Iterator[tuple[str, bytes]]:
        """(subject, data) of the readings, now that the batch `as_of` is durable."""
        for to, read in self._readings:
            reading = read()
            reading.as_of = as_of
            yield to, _encode(reading)

    def _work_for(self, to: tuple[str, str]) -> Work:
        # Lists of its own: msgspec shares no mutable defaults, but say so.
        work = self._work[to] = Work([], [])
        return work


def split_work(work: Work, bytes_max: int) -> list[Work]:
    """`work` in messages of roughly at most `bytes_max` bytes each."""
    parts = [Work([], work.acks)]
    size = 200 * len(work.acks)
    for one in work.items:
        item_size = _assignment_bytes(one)
        if parts[-1].items and size + item_size > bytes_max:
            parts.append(Work([], []))
            size = 0
        parts[-1].items.append(one)
        size += item_size
    return parts


def _assignment_bytes(one: Assignment) -> int:
    size = 300 + len(memoryview(one.item))
    size += len(memoryview(one.checkpoint)) + len(memoryview(one.answer))
    return size + sum(80 + len(memoryview(known.result)) for known in one.depends.values())
