"""Ports for servers that have to be told theirs before they start."""

from __future__ import annotations

import socket
from collections.abc import Container
from contextlib import ExitStack, suppress
from random import SystemRandom

#: Who asks the system for any port gets one from here on (Linux; others begin higher).
ANY_FROM = 32_768
#: Every process draws others, whatever it has seeded.
_rng = SystemRandom()


def free_ports(count: int, beside: Container[int] = ()) -> list[int]:
    """Ports of this machine that nobody listens on now, none of them in `beside`.

    Nor does any program get one by chance meanwhile, as the system gives out higher ones: a
    NATS server's client port could be the one that was meant for its routes.
    """
    assert count >= 0, "a number of ports"
    found: dict[int, socket.socket] = {}
    with ExitStack() as taken:
        while len(found) < count:
            one = taken.enter_context(socket.socket())
            port = _rng.randrange(ANY_FROM // 2, ANY_FROM)
            if port in beside:
                continue
            # One in use is not wanted: another is drawn.
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                found[port] = one
    return list(found)
