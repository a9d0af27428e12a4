"""What is truly in the logs, from the entries as the server stored them.

Nothing here asks an actor.  The entries are folded into reference shards, and what later
checks need to look back at is kept: every item's statuses by sequence, every claim.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from swarm.bus.base import Entry
from swarm.core.cluster import Cluster
from swarm.core.envelope import CLUSTER_LOG, Link, LogPosition, decode_as, decode_entry
from swarm.core.shard import Shard, ShardRules
from swarm.core.work import make_token
from swarm.messages import (
    ENDED,
    Claimed,
    ClusterEvent,
    Event,
    Hold,
    LogEntry,
    Opened,
    Submitted,
)
from swarm.subjects import item_id, parse_item_id
from swarm.testing.sim.verdict import Verdict


class Claim(Struct):
    """A claim as the log has it."""

    work_item_id: str
    token: str
    fence: int
    agent: str
    session: str
    lease_s: float
    #: Virtual time of its end in the log, None while it holds.
    ended_at_s: float | None = None
    #: What the item was then.
    ended_as: str = ""


class Known(Struct):
    """An item of the log."""

    work_item_id: str
    #: The name that its client gave it: the same item, however often it was sent.
    logical: str
    #: (sequence, status) of each change, oldest first.
    history: list[tuple[int, str]]
    #: The claim that ended it, if it was held then.
    ended_by: Claim | None = None
    #: Why it is dead.
    cause: str = ""

    @property
    def status(self) -> str:
        """As of the end of the log."""
        return self.history[-1][1]

    @property
    def ended_blocked(self) -> bool:
        """Whether it ended while its dependencies kept it from being claimed."""
        return self.status in ENDED and self.history[-2][1] == "blocked"

    def was(self, status: str) -> bool:
        """Whether it has ever been that."""
        return any(one == status for _, one in self.history)

    def status_at(self, seq: int) -> str | None:
        """As of `seq`; None before it was submitted."""
        found = None
        for at, status in self.history:
            if at > seq:
                break
            found = status
        return found

    def had_ended(self, seq: int) -> bool:
        """Whether it had ended before the entry `seq`, or at some event of it."""
        within = [status for at, status in self.history if at == seq]
        return any(status in ENDED for status in (self.status_at(seq - 1), *within))


class Folded(Struct):
    """An event that has just become durable."""

    shard: int
    seq: int
    event: Event
    entry: LogEntry
    #: Who wrote it.
    node: str
    #: When its writer began to append the entry for the first time (virtual time).
    decided_at_s: float
    #: The item it is about, and the claim that it ended; None: no single one.
    item: Known | None = None
    ended: Claim | None = None


def numbers_of(event: Event) -> list[int]:
    """Items that the event is about, but for new ones."""
    number: int | list[int] = getattr(event, "n", [])
    return [number] if isinstance(number, int) else number


class Truth:
    """See the module's docstring.  `clock` is the loop's; `tell` hears of every event,
    `tell_cluster` of those of the cluster log and who wrote them."""

    def __init__(
        self,
        rules: ShardRules,
        verdict: Verdict,
        clock: Callable[[], float],
        tell: Callable[[Folded], None],
        tell_cluster: Callable[[ClusterEvent, str], None],
    ) -> None:
        self._rules = rules
        self._verdict = verdict
        self._clock = clock
        self._tell = tell
        self._tell_cluster = tell_cluster
        #: The reference state of the cluster log, and how far it goes.
        self.cluster = Cluster()
        self.cluster_at = LogPosition("cluster")
        self.shards: dict[int, Shard] = {}
        self.positions: dict[int, LogPosition] = {}
        #: By item id.
        self.items: dict[str, Known] = {}
        #: By (item id, token).
        self.claims: dict[tuple[str, str], Claim] = {}
        self._decided: dict[tuple[str, bytes], float] = {}

    def last_seqs(self) -> dict[int, int]:
        """Last sequence of each log."""
        return {number: position.at for number, position in self.positions.items()}

    def had_ended(self, known: Known) -> bool:
        """Whether the item had ended at some moment of its shard's last entry.

        What is refused in the course of a batch is true of that moment: the item may have been
        brought back, and claimed anew, before the batch was complete.
        """
        return known.had_ended(self.positions[parse_item_id(known.work_item_id)[0]].last)

    def unfinished(self) -> list[str]:
        """Items that have not ended, but for blocked ones, which may have to wait."""
        return [
            f"{known.work_item_id} {known.status}"
            for known in self.items.values()
            if known.status not in ENDED and known.status != "blocked"
        ]

    def shard(self, number: int) -> Shard:
        """The reference state of a shard."""
        return self.shards.get(number) or Shard(number, self._rules)

    # --- hooks of the world ----------------------------------------------------------

    def on_send(self, log: str, data: bytes, node: str) -> None:
        """A process begins to append."""
        self._decided.setdefault((node, data), self._clock())

    def on_append(self, log: str, entry: Entry, node: str) -> None:
        """An entry was stored."""
        last = log.rsplit(".", 1)[1]
        if last == "cluster":
            self._on_cluster(log, entry, node)
            return
        number = int(last)
        shard = self.shards.setdefault(number, Shard(number, self._rules))
        position = self.positions.setdefault(number, LogPosition(log))
        decoded = decode_entry(log, entry.seq, entry.data)
        link = position.advance(entry.seq, decoded)
        if decoded is None:
            return
        if link is not Link.OURS:
            self._verdict.broken(f"[3] entry {entry.seq} of {log}, by {node}, passed the fence")
        shard.seq = entry.seq
        decided_at_s = self._decided.get((node, entry.data), self._clock())
        for event in decoded.events:
            folded = Folded(number, entry.seq, event, decoded, node, decided_at_s)
            self._fold(shard, folded)
            self._verdict.saw(type(event).__name__)
            self._tell(folded)
        shard.validate()

    def _on_cluster(self, log: str, entry: Entry, node: str) -> None:
        """An entry of the cluster log was stored."""
        cluster = self.cluster
        decoded = decode_as(CLUSTER_LOG, log, entry.seq, entry.data)
        link = self.cluster_at.advance(entry.seq, decoded)
        if decoded is None:
            return
        if link is not Link.OURS:
            self._verdict.broken(f"[3] entry {entry.seq} of {log}, by {node}, passed the fence")
        cluster.seq = entry.seq
        for event in decoded.events:
            cluster.apply(event, decoded.now, decoded.owner)
            self._verdict.saw(f"cluster {type(event).__name__}")
            self._tell_cluster(event, node)

    # --- folding ---------------------------------------------------------------------

    def _fold(self, shard: Shard, folded: Folded) -> None:
        event, entry = folded.event, folded.entry
        numbers = numbers_of(event)
        number = numbers[0] if len(numbers) == 1 else None
        before = self._hold(shard, number)
        if isinstance(event, Opened) and entry.batch != 0:
            self._verdict.broken(f"[3] {folded.node} opened shard {shard.number} in mid-epoch")
        shard.apply(event, entry.now, entry.owner)
        if isinstance(event, Submitted):
            for offset, raw in enumerate(event.items):
                self._submitted(shard, event.first + offset, raw, folded.seq)
            return
        for one in numbers:
            self._follow(shard, one, folded.seq)
        if number is None:
            return
        folded.item = known = self.items[item_id(shard.number, number)]
        if isinstance(event, Claimed):
            token = make_token(event.fence, entry.owner, event.session)
            self.claims[known.work_item_id, token] = Claim(
                known.work_item_id, token, event.fence, event.agent, event.session, event.lease_s
            )
        after = self._hold(shard, number)
        if before is not None and (after is None or after.token != before.token):
            folded.ended = self.claims[known.work_item_id, before.token]
            folded.ended.ended_at_s = self._clock()
            folded.ended.ended_as = known.status

    def _follow(self, shard: Shard, number: int, seq: int) -> None:
        """An event has concerned this item."""
        item = shard.items.get(number)
        if item is None:
            return  # archived: it stays as it ended
        known = self.items[item_id(shard.number, number)]
        if item.status != known.status:
            known.history.append((seq, item.status))
        hold = item.end.hold if item.end is not None else None
        known.ended_by = self.claims[known.work_item_id, hold.token] if hold is not None else None
        known.cause = item.end.cause if item.end is not None else ""

    def _submitted(self, shard: Shard, number: int, raw: bytes, seq: int) -> None:
        logical = msgspec.json.decode(raw)["payload"]["logical"]
        status = shard.items[number].status
        known = Known(item_id(shard.number, number), logical, [(seq, status)])
        self.items[known.work_item_id] = known

    def _hold(self, shard: Shard, number: int | None) -> Hold | None:
        item = shard.items.get(number) if number is not None else None
        return item.hold if item is not None else None

    def item_of(self, work_item_id: str) -> Known | None:
        """The item with this id; None for one that the log does not have."""
        parse_item_id(work_item_id)  # an answer with what is no id is a failure of its own
        return self.items.get(work_item_id)
