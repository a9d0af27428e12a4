"""How a handler can end besides returning a result, or raising whatever went wrong."""

from __future__ import annotations

import math
from typing import Any, Literal

from swarm.core.handling import Waiting
from swarm.errors import Refusal
from swarm.messages import NULL
from swarm.sdk.items import to_json

#: Longest time that can be waited for, in seconds: a year.
LONGEST_S = 31_536_000.0


class RetryLater(Exception):
    """Raise it in a handler: this attempt failed, try again after `after_s` seconds.

    None: after the item's backoff, as with any other exception.  The attempt is charged; an
    item without attempts left is dead.  `reason`: for people (default: what it was raised
    from).  ValueError if `after_s` is not 0 to a year.
    """

    def __init__(self, after_s: float | None = None, reason: str = "") -> None:
        if after_s is not None and not (math.isfinite(after_s) and 0 <= after_s <= LONGEST_S):
            raise ValueError(
                f"after_s is {after_s}; allowed: 0 to {LONGEST_S:.0f} seconds, or None"
            )
        super().__init__(reason)
        self.after_s = after_s
        self.reason = reason


class GiveUp(Exception):
    """Raise it in a handler: the item cannot be done, it is dead whatever attempts are left.

    `reason`: for people (default: what it was raised from).
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class WaitRequested(BaseException):
    """What `Context.wait_for` raises to end the handler; let it pass.

    No `Exception`, so that a handler's own ``except Exception`` does not catch it.
    """


def waiting(
    what: Any, expires_s: float, on_expiry: Literal["dead", "resume"], checkpoint: Any
) -> Waiting:
    """The outcome of a handler that waits for `what`; `Refusal` for what cannot be meant."""
    if on_expiry not in ("dead", "resume"):
        raise Refusal("bad_request", f"on_expiry is {on_expiry!r}; allowed: 'dead' and 'resume'")
    if not (math.isfinite(expires_s) and 0 <= expires_s <= LONGEST_S):
        raise Refusal(
            "bad_request",
            f"expires_s is {expires_s}; allowed: 0 to {LONGEST_S:.0f} seconds",
        )
    kept = NULL if checkpoint is None else to_json("the checkpoint", checkpoint)
    return Waiting(to_json("what it waits for", what), float(expires_s), on_expiry, kept)
