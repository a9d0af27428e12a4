"""Commands of an agent that are under way: said until they are acknowledged."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from swarm.core.checks import command_text_bytes
from swarm.messages import ItemCommand

#: What was said and is not acknowledged is said again after this long.
RESEND_S = 1.0
#: Bytes of a command besides its text, and of a message besides its commands.
COMMAND_BYTES = 320

NEVER = float("inf")


class Pending(Struct):
    """One command under way."""

    command: ItemCommand
    size: int
    queued_at: float
    tries: int = 0
    #: When to say it again; `NEVER` while it waits to be sent.
    due: float = NEVER


class Outbox:
    """Commands by id, oldest first, in messages of at most `message_bytes_max` bytes."""

    def __init__(self, message_bytes_max: int) -> None:
        self._bytes_max = message_bytes_max
        self._pending: dict[str, Pending] = {}
        self._to_send: list[Pending] = []
        #: No command is due before this time: when to call `repeat_overdue` at the latest.
        self.next_due = NEVER

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[ItemCommand]:
        return (pending.command for pending in self._pending.values())

    def say(self, command: ItemCommand, now: float) -> None:
        """Send the command, and again until `answered` or `forget`."""
        assert command.command_id not in self._pending, "command ids are used once"
        pending = Pending(command, COMMAND_BYTES + command_text_bytes(command), now)
        self._pending[command.command_id] = pending
        self._to_send.append(pending)

    def get(self, command_id: str) -> ItemCommand | None:
        """The command under way with this id."""
        pending = self._pending.get(command_id)
        return None if pending is None else pending.command

    def forget(self, command_id: str) -> None:
        """Repeat it no more; if it has not been sent yet, it still is, once."""
        self._pending.pop(command_id, None)

    def oldest_at(self) -> float:
        """Since when the oldest command waits for its answer; `NEVER` if none does."""
        return next((pending.queued_at for pending in self._pending.values()), NEVER)

    def repeat_all(self) -> None:
        """Everything sent may be lost."""
        for pending in self._pending.values():
            self._queue(pending)

    def repeat_overdue(self, now: float) -> None:
        """Send once more what should have been answered by now."""
        self.next_due = NEVER
        for pending in self._pending.values():
            if pending.due <= now:
                self._queue(pending)
            else:
                self.next_due = min(self.next_due, pending.due)

    def take(self, now: float) -> list[list[ItemCommand]]:
        """What waits to be sent, in parts that each fit into one message."""
        queued, self._to_send = self._to_send, []
        parts: list[list[ItemCommand]] = []
        size = 0
        for pending in queued:
            command = pending.command
            if pending.tries and command.command_id not in self._pending:
                continue
            assert pending.due == NEVER, "a command waits to be sent once, or for its answer"
            command.retry = pending.tries
            pending.tries += 1
            pending.due = now + RESEND_S
            self.next_due = min(self.next_due, pending.due)
            if not parts or size + pending.size > self._bytes_max:
                parts.append([])
                size = COMMAND_BYTES
            parts[-1].append(command)
            size += pending.size
        return parts

    def _queue(self, pending: Pending) -> None:
        if pending.due != NEVER:
            pending.due = NEVER
            self._to_send.append(pending)
