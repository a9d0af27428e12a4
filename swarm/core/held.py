"""One assignment in the hands of an agent: what can be said of it, within its limits.

An item may have so many bytes: as submitted, with the answer to its latest wait, the
results of its dependencies, its checkpoint, its note, and its result or error.  What is
too large is refused by the item's owner in any case; here it is found out before, so
that the handler's author reads a sentence with figures.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw, Struct

from swarm.core.checks import stored_bytes
from swarm.core.handling import Failed, Waiting
from swarm.core.texts import cut_text
from swarm.messages import (
    NULL,
    Assignment,
    Complete,
    ErrorBody,
    Fail,
    ItemCommand,
    Progress,
    Release,
    Wait,
)

#: Longest failure message and progress note, in bytes; what is longer is cut.
TEXT_BYTES_MAX = 8192

#: Codes that say: this claim has ended.
LOST = frozenset({"stale_token", "not_holder", "not_claimed", "already_finished", "unknown_item"})

Key = tuple[str, str]
NewId = Callable[[], str]


class Held(Struct):
    """What is known of an assignment, and of what its handler has said so far."""

    key: Key
    #: Most bytes of the item, all things considered.
    bytes_max: int
    #: As it came: item, answer, results of dependencies; not the checkpoint.
    base_bytes: int
    #: Of the largest checkpoint that the swarm may have.
    checkpoint_bytes: int = 0
    #: This claim has ended while the handler ran: nothing will be said of it any more.
    stopped: bool = False
    #: Why the item is handed back if its handler stops; empty: it was not asked to.
    handback: str = ""
    #: The newest report, and whether it is still to be said.
    percent: float = 0.0
    note: str = ""
    note_bytes: int = 0
    reports: bool = False
    #: The handler's newest checkpoint, which one it is (from 1), and the newest one of which
    #: the swarm has said that it is durable, or refused.
    checkpoint: Raw = NULL
    checkpoint_number: int = 0
    settled_number: int = 0
    #: The progress under way: its command id, and the number of the checkpoint in it.
    progress_sent: str = ""
    number_sent: int = 0

    @classmethod
    def of(cls, assignment: Assignment, bytes_max: int) -> Held:
        """As it has arrived."""
        size = len(memoryview(assignment.item))
        if assignment.waits or assignment.depends or assignment.checkpoint != NULL:
            size += stored_bytes(assignment.answer)
            size += sum(stored_bytes(one.result) for one in assignment.depends.values())
        held = cls((assignment.work_item_id, assignment.token), bytes_max, size)
        if assignment.checkpoint != NULL:
            held.checkpoint_bytes = stored_bytes(assignment.checkpoint)
        return held

    # --- reports -----------------------------------------------------------------------------

    def report(self, percent: float, note: str) -> None:
        """The handler says how far it is."""
        assert 0 <= percent <= 100, "the handler's context checks it"
        room = self.bytes_max - self.base_bytes - self.checkpoint_bytes
        self.note = fit_text(note, min(TEXT_BYTES_MAX, room))
        self.percent, self.reports = percent, True

    def keep(self, number: int, checkpoint: Raw) -> None:
        """The handler leaves something for whoever works on the item next."""
        assert number > self.checkpoint_number, "checkpoints are numbered in their order"
        self.checkpoint, self.checkpoint_number = checkpoint, number
        self.reports = True

    def unsettled(self) -> Raw:
        """The newest checkpoint if the swarm may not have it; else null, which keeps it."""
        return self.checkpoint if self.checkpoint_number > self.settled_number else NULL

    def progress(self, new_id: NewId, *, with_checkpoint: bool = True) -> Progress:
        """The newest report; under way from here on."""
        assert self.reports, "there is something to report"
        assert not self.progress_sent, "one report is under way at a time"
        checkpoint = self.unsettled() if with_checkpoint else NULL
        self.reports = False
        self.progress_sent = new_id()
        self.note_bytes = stored_bytes(self.note)
        if checkpoint != NULL:
            self.number_sent = self.checkpoint_number
            self.checkpoint_bytes = max(self.checkpoint_bytes, stored_bytes(checkpoint))
        return Progress(
            self.progress_sent, *self.key, self.percent, self.note, checkpoint=checkpoint
        )

    def progress_answered(self) -> int:
        """Nothing is under way any more; the number of the checkpoint in it, 0 for none."""
        number, self.progress_sent, self.number_sent = self.number_sent, "", 0
        self.settled_number = max(self.settled_number, number)
        return number

    # --- outcomes ----------------------------------------------------------------------------

    def complete(self, new_id: NewId, result: Raw) -> ItemCommand:
        """It is done; a failure if the result is too large."""
        size = stored_bytes(result)
        # Completing drops the checkpoint.
        if result == NULL or self.base_bytes + self.note_bytes + size <= self.bytes_max:
            return Complete(new_id(), *self.key, result)
        why = (
            f"the handler's result has {size} bytes, which is too large: with its own "
            f"{self.base_bytes} bytes and its note the item may have {self.bytes_max}; store the "
            "result elsewhere and return a reference, or raise max_payload on the NATS server"
        )
        return self.fail(new_id, Failed(why))

    def fail(self, new_id: NewId, failed: Failed) -> Fail:
        """It failed."""
        room = self.bytes_max - self.base_bytes - self.note_bytes - self.checkpoint_bytes
        error = fit_text(failed.error, min(room, TEXT_BYTES_MAX))
        return Fail(
            new_id(), *self.key, error, retry_after=failed.retry_after_s, final=failed.final
        )

    def release(self, new_id: NewId, reason: str) -> Release:
        """It is handed back, with the newest checkpoint."""
        checkpoint = self.unsettled()
        taken = self.base_bytes + max(self.checkpoint_bytes, stored_bytes(checkpoint))
        reason = fit_text(reason, min(self.bytes_max - taken, TEXT_BYTES_MAX))
        return Release(new_id(), *self.key, reason, checkpoint=checkpoint)

    def wait(self, new_id: NewId, waiting: Waiting) -> Wait:
        """It waits for something outside."""
        checkpoint = self.unsettled() if waiting.checkpoint == NULL else waiting.checkpoint
        return Wait(
            new_id(),
            *self.key,
            waiting.waits_for,
            waiting.expires_s,
            waiting.on_expiry,
            checkpoint,
        )

    def lesser(self, new_id: NewId, command: ItemCommand, error: ErrorBody) -> ItemCommand | None:
        """What to say instead of an outcome that was refused, so that the item does not stay
        held; None when there is nothing more to say."""
        assert not error.retry, "then it is said again as it is"
        if error.code in LOST:
            return None
        match command:
            case Complete():
                why = f"the result was refused: {error.code}: {error.message}"
                return self.fail(new_id, Failed(why))
            case Wait():
                why = f"what it was to wait for was refused: {error.code}: {error.message}"
                return self.fail(new_id, Failed(why))
            case Fail() if command.error or command.retry_after is not None:
                return Fail(new_id(), *self.key, "", final=command.final)
            case Release() if command.reason or command.checkpoint != NULL:
                return Release(new_id(), *self.key, "")
            case _:
                return None


def fit_text(text: str, bytes_max: int) -> str:
    """`text`, cut so that as JSON it takes at most `bytes_max` bytes."""
    cut = cut_text(text, bytes_max)
    while cut and stored_bytes(cut) > bytes_max:
        # Escapes: a line feed is two bytes, a control character six.
        cut = cut_text(cut, len(cut.encode()) * bytes_max // (stored_bytes(cut) + 1))
    return cut
