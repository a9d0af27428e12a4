"""The bus on a real NATS: messages over a `NatsLink`, logs and state in JetStream."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

import msgspec

from swarm.bus.base import Entry, LogInfo, StateValue, Storage
from swarm.bus.disk import free_bytes
from swarm.bus.jetstream_api import (
    NO_STREAM,
    OTHER_STREAM,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_UNDER_WAY,
    AccountInfo,
    ApiError,
    api_error,
    is_full,
    log_config,
    no_room,
    stream_of,
)
from swarm.bus.jetstream_calls import TRY_AGAIN_S, JetStreamLink
from swarm.bus.jetstream_read import Page, read_page
from swarm.bus.jetstream_records import Records
from swarm.bus.jetstream_state import SharedState
from swarm.bus.nats_client import NatsClient
from swarm.bus.nats_dialing import Target
from swarm.bus.nats_link import CALL_TIMEOUT_S
from swarm.errors import (
    AppendRefused,
    BadInput,
    BusError,
    BusUnavailable,
    LogMissing,
    OutcomeUnknown,
)

#: A sender is one token of a subject.
SENDER: Final = re.compile(r"[A-Za-z0-9_-]+")

#: Dropped from a log in one go, about.  Measured with a million items: 4 MB steps raise p99 of
#: submissions by 7 to 20 ms, these by 3.
PURGE_BYTES: Final = 1024 * 1024
#: Between two such steps: of the appends in that time only one has waited for a step.
PURGE_PAUSE_S: Final = 0.05

_decode_account = msgspec.json.Decoder(AccountInfo).decode


async def connect(
    url: str,
    sender: str,
    *,
    prefix: str = "swarm",
    name: str = "",
    connect_timeout_s: float = 5.0,
    replicas: int = 1,
    storage_max: int = 0,
    store_dir: Path | None = None,
) -> JetStreamBus:
    """Connect to the NATS server at `url` as `sender`.

    `url`: ``nats://[user:password@]host[:port]``, or several, separated by commas.
    `prefix`: of the swarm, for its shared state.  `name`: shown in NATS's monitoring.
    `replicas`: of every stream that is created.  For `storage` to tell what no client is told:
    `storage_max`, bytes that the server may use (0: not known), and `store_dir`, where it
    stores if that is on this machine.  Keeps trying for `connect_timeout_s` (a server may just
    be starting).  Raises `BadInput` for a bad argument, `BusUnavailable`.
    """
    if not SENDER.fullmatch(sender):
        raise BadInput(f"the sender {sender!r} cannot be used: letters, digits, '_' and '-' only")
    urls = [part for part in map(str.strip, url.split(",")) if part]
    if not urls:
        raise BadInput("the NATS URL is empty; one looks like nats://127.0.0.1:4222")
    target = Target(urls=urls, sender=sender, name=name)
    client = await _first_client(target, connect_timeout_s)
    try:
        bus = JetStreamBus(target, client.max_payload, prefix, replicas, storage_max, store_dir)
        await bus.open(client)
    except BaseException:
        await client.abandon()
        raise
    return bus


async def _first_client(target: Target, timeout_s: float) -> NatsClient:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    first: BusUnavailable | None = None
    while True:
        try:
            return await target.dial(max(deadline - loop.time(), TRY_AGAIN_S))
        except BusUnavailable as error:
            # That there was no time left for the last try says nothing about the reason.
            shown = first if first and isinstance(error.__cause__, TimeoutError) else error
            # Whom it does not let in it will not let in a moment later.
            refused = "authorization" in str(error).lower()
            if refused or loop.time() + TRY_AGAIN_S >= deadline:
                raise shown from shown.__cause__
            first = shown
        await asyncio.sleep(TRY_AGAIN_S)


class JetStreamBus(JetStreamLink):
    """A `swarm.bus.base.Bus` on NATS; made by `connect`."""

    def __init__(
        self,
        target: Target,
        max_payload: int,
        prefix: str,
        replicas: int,
        storage_max: int,
        store_dir: Path | None,
    ) -> None:
        super().__init__(target, max_payload)
        self._replicas = replicas
        self._storage_max = storage_max
        self._store_dir = store_dir
        self._state = SharedState(self, prefix, replicas)
        self._records = Records(self, replicas)
        self._streams: dict[str, str] = {}

    # --- logs ---

    async def create_log(self, log: str, max_bytes: int = 0) -> None:
        """See `Bus.create_log`; raises `BusTimeout`, `BusUnavailable`, `BadInput`."""
        await self.create_stream(f"creating {log}", log_config(log, self._replicas, max_bytes))

    async def append(self, log: str, data: bytes, expected_seq: int, timeout_s: float) -> int:
        """See `Bus.append`; also raises `BusUnavailable` when closed: nothing was sent."""
        stream = self._stream(log)
        fence = {
            "Nats-Expected-Last-Sequence": str(expected_seq),
            "Nats-Expected-Stream": stream,
        }
        what = f"an append to {log} after {expected_seq}"
        stored = await self.store(what, log, stream, log, data, timeout_s, fence)
        if stored.error is not None:
            raise _append_error(what, log, expected_seq, stored.error)
        return stored.seq

    def _stream(self, log: str) -> str:
        stream = self._streams.get(log)
        if stream is None:
            stream = self._streams[log] = stream_of(log)
        return stream

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """See `Bus.read`.  May return fewer than there are, but never with a hole between."""
        if limit < 1:
            return []
        request = Page.request(from_seq, limit)
        deadline = self._loop.time() + CALL_TIMEOUT_S
        return await read_page(self, log, self._stream(log), request, deadline)

    async def log_info(self, log: str) -> LogInfo:
        """See `Bus.log_info`: as the log's leader sees it."""
        reply = await self.api(f"looking at {log}", f"STREAM.INFO.{stream_of(log)}")
        if reply.state is None or reply.config is None:
            raise BusUnavailable(f"{log}: cannot make sense of JetStream's answer")
        state = reply.state
        return LogInfo(
            # A new stream says 0.
            first_seq=state.first_seq if state.messages else state.last_seq + 1,
            last_seq=state.last_seq,
            bytes=state.bytes,
            bytes_max=max(0, reply.config.get("max_bytes", 0)),
        )

    async def purge(self, log: str, below_seq: int) -> None:
        """See `Bus.purge`; in steps, after the first of which it may raise, too.

        While a purge is under way no append is answered, and it takes longer the more it
        drops (200 MB at once: 0.4 s).
        """
        info = await self.log_info(log)
        # The server takes 0 for everything there is, and a number beyond the end for the
        # next sequence to give: neither may ever reach it.
        below_seq = min(below_seq, info.last_seq + 1)
        count = info.last_seq + 1 - info.first_seq
        step = max(1, PURGE_BYTES * count // max(info.bytes, 1))
        done = info.first_seq
        while done < below_seq:
            if done > info.first_seq:
                await asyncio.sleep(PURGE_PAUSE_S)
            done = min(done + step, below_seq)
            await self.api(f"purging {log}", f"STREAM.PURGE.{stream_of(log)}", {"seq": done})

    # --- records ---

    async def create_records(self, name: str, max_age_s: float) -> None:
        """See `Bus.create_records`; raises `BusTimeout`, `BusUnavailable`, `BadInput`."""
        await self._records.create(name, max_age_s)

    async def put_record(self, name: str, key: str, data: bytes, timeout_s: float) -> int:
        """See `Bus.put_record`; also raises `BusUnavailable` when closed: nothing was sent."""
        return await self._records.put(name, key, data, timeout_s)

    async def get_records(self, name: str, key: str, as_of: int = 0) -> list[bytes]:
        """See `Bus.get_records`."""
        return await self._records.get(name, key, as_of)

    async def storage(self) -> Storage:
        """See `Bus.storage`.

        The limit is the least of what is known: the account's, which JetStream tells; the
        server's own (`max_file_store`), which it tells nobody but its operator, so `connect`
        has to be told; what is used and what the disk has left.  Each replica counts.  In a
        cluster the figures are some seconds old, and while a server is at its own limit they
        may not come at all (`jetstream_api.NO_ROOM`): what was known before still holds.
        """
        what = "looking at the storage"
        message = await self.call(what, "INFO", b"")
        try:
            info = _decode_account(message.data)
        except msgspec.DecodeError as error:
            raise BusUnavailable(f"{what}: cannot make sense of JetStream's answer") from error
        if info.error is not None:
            raise api_error(what, info.error)
        own = info.tiers.get(f"R{self._replicas}")
        used, limit = info.storage, info.limits.max_storage
        if own is not None:
            used, limit = own.storage, own.limits.max_storage
        limits = [limit] if limit >= 0 else []
        if self._storage_max:
            limits.append(self._storage_max)
        if self._store_dir is not None:
            limits.append(used + self._free_bytes(self._store_dir))
        return Storage(used, min(limits, default=0))

    def _free_bytes(self, directory: Path) -> int:
        try:
            return free_bytes(directory)
        except OSError as error:
            raise BusUnavailable(f"looking at the storage: {directory}: {error}") from error

    # --- clock and shared state ---

    async def server_time(self) -> float:
        """See `Bus.server_time`; raises `BusTimeout`, `BusUnavailable`."""
        return await self._state.server_time()

    async def open_state(self) -> None:
        """See `Bus.open_state`; raises `BusTimeout`, `BusUnavailable`."""
        await self._state.open()

    async def state_get(self, key: str) -> bytes | None:
        """See `Bus.state_get`; raises `BusTimeout`, `BusUnavailable`."""
        return await self._state.get(key)

    async def state_create(self, key: str, value: bytes) -> bool:
        """See `Bus.state_create`; raises `BusTimeout`: then it may have been stored."""
        return await self._state.create(key, value)

    async def state_put(self, key: str, value: bytes) -> None:
        """Store `value` under `key`, whatever is there: for an operator's commands only.

        Raises `StateMissing`, `StorageFull`, `BusTimeout`, `BusUnavailable`.
        """
        await self._state.put(key, value)

    async def state_replicas(self) -> int:
        """How many servers keep the shared state; raises `StateMissing`, `BusTimeout`."""
        return await self._state.replicas()

    async def state_read(self, key: str) -> StateValue | None:
        """See `Bus.state_read`; raises `BusTimeout`, `BusUnavailable`."""
        return await self._state.read(key)

    async def state_update(self, key: str, value: bytes, revision: int) -> bool:
        """See `Bus.state_update`; raises `BusTimeout`: then it may have been stored."""
        return await self._state.update(key, value, revision)


def _append_error(what: str, log: str, expected_seq: int, error: ApiError) -> BusError:
    if error.err_code == WRONG_LAST_SEQUENCE:
        actual = error.description.rpartition(":")[2].strip()
        return AppendRefused(log, expected_seq, int(actual) if actual.isdecimal() else None)
    if error.err_code == WRONG_LAST_SEQUENCE_UNDER_WAY:
        return AppendRefused(log, expected_seq, None)
    if error.err_code == OTHER_STREAM:
        return LogMissing(f"{log}: another stream takes this log's subject: {error}")
    if error.err_code == NO_STREAM:
        return LogMissing(f"{log}: no such log")
    if is_full(error):
        return no_room(what, error)
    # Most of these mean that it was not stored, but unknown is always safe.
    return OutcomeUnknown(f"{what}: {error}")
