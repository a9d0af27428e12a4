"""Basic types and limits of what travels."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

Priority = Literal["critical", "high", "medium", "low"]
#: Most urgent first; a priority's rank is its index.
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "medium", "low")

#: Life of a work item in this version.
Status = Literal["queued", "claimed", "completed", "dead"]

#: One subject token: no dots, blanks or wildcards.  A leading ``_`` is reserved.
#: (In Python ``$`` alone lets a line feed follow, which would end a protocol line.)
TOKEN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$(?!\n)"
WorkType = Annotated[str, Meta(pattern=TOKEN_PATTERN)]
Label = Annotated[str, Meta(max_length=256)]
#: Seconds; 0 = the swarm's default.
LeaseTime = Annotated[float, Meta(ge=0, le=604_800)]

NULL = Raw(b"null")


class ErrorBody(Struct, frozen=True):
    """What was refused and why; `code` is one of `swarm.errors.RefusalCode`."""

    code: str
    message: str
    #: Whether the same request may succeed later.
    retry: bool = False


#: Most items of one `Submit`: their answers must fit into one message, too.
SUBMIT_ITEMS_MAX = 1000
