"""Finding the NATS server that a swarm is on, and connecting to it."""

from __future__ import annotations

from swarm.bus.base import Bus


async def connect_bus(url: str | None, sender: str, prefix: str) -> Bus:
    """A connection that speaks as `sender`, to `url`, else to where `find_url` says.

    Raises `BusUnavailable` if nothing answers there, `BadInput` for a bad name or address.
    """
    # Imported here: whoever brings a bus of their own needs neither settings nor nats-py.
    from swarm.bus.jetstream import connect  # noqa: PLC0415
    from swarm.config import find_url  # noqa: PLC0415
    from swarm.subjects import check_token  # noqa: PLC0415

    return await connect(url or find_url(), check_token("name", sender), prefix=prefix, name=sender)
