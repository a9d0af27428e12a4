"""What `swarm.testing.fold` makes of the logs: the life of every work item."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

#: How a claim ended, by the log.
Ending = Literal["completed", "dead", "cancelled", "released", "retried", "waiting"]
#: How an item ended.
Ended = Literal["completed", "dead", "cancelled"]


class Hold(Struct):
    """A claim and its end, as the log has them."""

    token: str
    #: Sequence and place within the entry: what came first in the log.
    at: tuple[int, int]
    #: The server's stamp of the entry; where it is not known, the earliest that it can be.
    time: float
    ending: Ending | None = None
    ended_at: tuple[int, int] | None = None
    #: As `time`, and the latest that it can be.
    ended_time: float = 0.0
    ended_latest: float = 0.0
    #: Whether the holder ended it by word of what its handler, which has ended, has done.
    told: bool = False
    #: Status of the item from its end on.
    after: str = ""
    #: The latest that `time` can be; 0: it is known.
    latest: float = 0.0


class Turn(Struct, frozen=True):
    """From this entry on an item had this status."""

    seq: int
    #: As `Hold.time`.
    time: float
    status: str


class Life(Struct):
    """One work item, as the log has it."""

    submitted_time: float
    #: In the order of the log.
    holds: list[Hold]
    #: None too if it was brought back from the dead.
    ended: Ended | None = None
    #: In the order of the log; several of one entry too.
    turns: list[Turn] = []
    #: The `NewItem`, as submitted.
    item: Raw = Raw(b"null")
    #: By what it depends on: how that ended, "" if it has not.
    depends: dict[str, str] = {}

    @property
    def status(self) -> str:
        """Its status by all that was folded."""
        return self.turns[-1].status if self.turns else ""

    def status_at(self, seq: int) -> str:
        """Its status once the entry `seq` was durable; "" before it was submitted."""
        return next((turn.status for turn in reversed(self.turns) if turn.seq <= seq), "")


class History(Struct):
    """All work items of the logs, and where a log contradicts itself."""

    items: dict[str, Life]
    contradictions: list[str]
    #: Entries that are not the swarm's.
    foreign: int = 0
    #: By shard, the server's stamp of each entry, by sequence, foreign ones included: the
    #: earliest and the latest that it can be.
    stamps: dict[int, dict[int, tuple[float, float]]] = {}
