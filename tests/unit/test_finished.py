"""Reading finished items back from records whose readers may be behind."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from swarm.actors.finished import FinishedItems
from swarm.actors.requests import Request
from swarm.actors.sending import Sender
from swarm.core.shard import Shard, ShardRules
from swarm.messages import End, Finished, Item
from swarm.testing.loop import run
from tests.actors.cluster import until


class LaggingRecords:
    """Records of which a reader has seen nothing but what it is asked to have come as far as."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.reading = asyncio.Event()
        self.go_on = asyncio.Event()

    async def create_records(self, records: str, max_age_s: float) -> None: ...

    async def put_record(self, records: str, key: str, data: bytes, timeout_s: float) -> int:
        self.kept.append(data)
        return len(self.kept)

    async def get_records(self, records: str, key: str, as_of: int) -> list[bytes]:
        found = self.kept[:as_of]
        self.reading.set()
        await self.go_on.wait()
        return found

    max_payload = 1024 * 1024

    async def publish(self, *args: Any, **more: Any) -> None:
        raise AssertionError(f"nobody is refused: {args}")


def ended(number: int) -> Item:
    item = Item(number, msgspec.Raw(b"{}"), "build", 2, 1.0, 0.0)
    item.end = End("completed", 2.0)
    return item


def test_a_record_put_while_another_is_read_proves_nothing_of_what_was_read() -> None:
    """Found by the simulation, seed 30559: "the record is not kept", of an item that was."""

    async def scenario() -> None:
        bus: Any = LaggingRecords()
        # Put by an earlier owner.
        bus.kept.append(msgspec.json.encode(Finished(0, [ended(1)])))
        shard = Shard(0, ShardRules())
        again: list[Request] = []
        archived: list[Any] = []
        records = FinishedItems(
            bus, Sender(bus), "records", shard, 60.0, again.append, archived.append
        )
        request = Request("get", "me", b"", "reply")
        records.thaw(1, request)
        await bus.reading.wait()
        shard.items[2] = ended(2)
        records.put([2])
        await until(lambda: archived)
        bus.go_on.set()
        await until(lambda: again)
        assert again == [request]
        assert shard.thawed[1].number == 1
        await records.stop()

    run(scenario, seed=1)
