"""A subscription of a link, over all of its connections."""

from __future__ import annotations

from dataclasses import dataclass

from nats.aio.subscription import Subscription as NatsSubscription

from swarm.bus.base import Handler
from swarm.bus.nats_client import NatsClient


@dataclass(slots=True, eq=False)
class Listener:
    """As it was asked for, and where it is registered at the moment.

    `among`: those of its link that are to be made on every new connection.
    """

    among: dict[Listener, None]
    subject: str
    queue: str
    handler: Handler
    client: NatsClient | None = None
    registered: NatsSubscription | None = None

    async def attach(self, client: NatsClient) -> None:
        """Be registered on `client` from here on."""
        self.client = client
        self.registered = await client.listen(self.subject, self.queue, self.handler)

    async def unsubscribe(self) -> None:
        """Stop; safe to call twice."""
        if self not in self.among:
            return
        del self.among[self]
        if self.client is not None and self.registered is not None:
            await self.client.silence(self.registered)
