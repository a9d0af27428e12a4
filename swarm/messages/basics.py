"""Basic types and limits of what travels."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Raw, Struct

Priority = Literal["critical", "high", "medium", "low"]
#: Most urgent first; a priority's rank is its index.
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "medium", "low")

#: Life of a work item.
Status = Literal[
    "queued", "scheduled", "blocked", "waiting", "claimed", "completed", "dead", "cancelled"
]
STATUSES: tuple[Status, ...] = get_args(Status)
#: Those that end it.  (A dead item can be brought back.)
ENDED: tuple[Status, ...] = ("completed", "dead", "cancelled")

#: One subject token: no dots, blanks or wildcards.  A leading ``_`` is reserved.
#: (In Python ``$`` alone lets a line feed follow, which would end a protocol line.)
TOKEN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$(?!\n)"
WorkType = Annotated[str, Meta(pattern=TOKEN_PATTERN)]
Label = Annotated[str, Meta(max_length=256)]
#: Seconds; 0 = the swarm's default.
LeaseTime = Annotated[float, Meta(ge=0, le=604_800)]

#: Seconds since the epoch; 0 = none.
Moment = Annotated[float, Meta(ge=0, le=1e11)]
#: Seconds; 0 = none.
Span = Annotated[float, Meta(ge=0, le=31_536_000)]

NULL = Raw(b"null")


class ErrorBody(Struct, frozen=True):
    """What was refused and why; `code` is one of `swarm.errors.RefusalCode`."""

    code: str
    message: str
    #: Whether the same request may succeed later.
    retry: bool = False


#: Most items of one `Submit`: their answers must fit into one message, too.
SUBMIT_ITEMS_MAX = 1000
