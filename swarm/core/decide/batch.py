"""The batch under decision, and what all commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from swarm.core.envelope import FORMAT
from swarm.core.ids import CLOCK_AHEAD_MAX_S, is_uuid7, uuid7_ms
from swarm.core.shard import Shard
from swarm.errors import Refusal
from swarm.messages import EVENTS_OF_1, Accepted, Conflict, Event, Taken

Known = TypeVar("Known", Accepted, Taken)


def _no_jitter() -> float:
    return 0.5


class Batch:
    """The events decided so far in this batch, applied as they are decided."""

    __slots__ = (
        "conflicts",
        "events",
        "format",
        "full",
        "map_version",
        "nonce",
        "now",
        "policy",
        "rng",
        "shard",
    )

    def __init__(
        self,
        shard: Shard,
        nonce: str,
        now: float,
        map_version: int = 1,
        format_: int = FORMAT,
        rng: Callable[[], float] = _no_jitter,
        full: bool = False,
        policy: str = "timestamp",
    ) -> None:
        self.shard = shard
        #: The shard map that the shard has adopted.
        self.map_version = map_version
        self.nonce = nonce
        self.now = now
        assert format_ in (1, FORMAT), "no other formats are written"
        #: Of the entry: the lowest that every live coordinator can read.
        self.format = format_
        #: From 0 to 1, to spread retries, and to pick by chance.
        self.rng = rng
        #: Whether storage is nearly full: nothing new is accepted.
        self.full = full
        #: What picks between equals: `CONFLICT_RESOLUTION`.
        self.policy = policy
        #: Who has disagreed in it: to be told once it is durable.
        self.conflicts: list[Conflict] = []
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        """Decide `event`; refuses one that not every live coordinator could read."""
        if self.format < FORMAT and not isinstance(event, EVENTS_OF_1):
            raise Refusal(
                "unsupported",
                "this cannot be done while coordinators of an earlier version are alive; "
                "it is done once all of them are upgraded",
                retry=True,
            )
        self.events.append(event)
        self.shard.apply(event, self.now, self.nonce)


def may_remember(command_id: str, now: float) -> bool:
    """Whether a command can be known again by this id, without harm to others."""
    return is_uuid7(command_id) and uuid7_ms(command_id) <= (now + CLOCK_AHEAD_MAX_S) * 1000


def check_id(command_id: str, now: float) -> None:
    """Refuse an id that must not be remembered."""
    if not is_uuid7(command_id):
        raise Refusal("bad_request", f"command_id {command_id!r} is not a UUIDv7")
    if not may_remember(command_id, now):
        ahead_s = uuid7_ms(command_id) / 1000 - now
        raise Refusal(
            "bad_request", f"command_id is {ahead_s:.0f} s in the future; set the sender's clock"
        )


def repeated(
    shard: Shard, command_id: str, retry: int, kind: type[Known], now: float
) -> Known | None:
    """The first answer to this command, None if it is new; refuses what cannot be told."""
    done = shard.commands.get(command_id)
    if done is not None:
        if not isinstance(done, kind):
            raise Refusal("bad_request", "this command id was used for another kind of command")
        return done
    check_id(command_id, now)
    if retry > 0 and uuid7_ms(command_id) <= shard.commands.horizon:
        raise Refusal(
            "too_old",
            "this retry is older than the dedupe window, so whether its first try was carried out "
            "is not known any more; look the work up, then send it as a new command",
        )
    return None


def repeated_about(
    shard: Shard, command_id: str, retry: int, number: int, verb: str, now: float
) -> Taken | None:
    """As `repeated`, for a command of this verb about item `number`."""
    done = repeated(shard, command_id, retry, Taken, now)
    if done is not None and (done.number, done.kind) != (number, verb):
        raise Refusal("bad_request", "this command id was used for something else")
    return done
