"""What only a real server does to a bus: it stops, freezes, hangs up, and says no."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import ServerError

from swarm.bus import jetstream, nats_dialing
from swarm.bus.base import Message
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import JetStreamBus, connect
from swarm.bus.nats_buffer import BUFFER_MAX
from swarm.errors import BadInput, BusError, BusUnavailable, OutcomeUnknown, PayloadTooLarge
from tests.conformance.worlds import Seen, outcome, reading
from tests.integration.servers import port_of, server_with, until
from tests.parts import make_authority

pytestmark = pytest.mark.usefixtures("nats_binary")

TIMEOUT_S = 5.0
LOG = "xlog.0"


class Restartable:
    """A server of the test's own, which keeps its port and data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedServer()
        self._port = 0
        self.url = ""

    async def start(self) -> None:
        await self._server.start(self._directory, self._port)
        self.url = self._server.url
        self._port = port_of(self.url)

    async def stop(self) -> None:
        await self._server.stop()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self._server.wait()
        await self._server.stop()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._server.pid, number)
        if number == signal.SIGSTOP:
            # Some of its threads run on for a moment.
            os.waitid(os.P_PID, self._server.pid, os.WSTOPPED)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Restartable]:
    server = Restartable(tmp_path / "data")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def bus(server: Restartable) -> AsyncIterator[JetStreamBus]:
    bus = await connect(server.url, "a", prefix="x")
    await bus.open_state()
    await bus.create_log(LOG)
    yield bus
    await bus.close()


def is_connected(bus: JetStreamBus) -> bool:
    """Whether it is now (a property, of which type checkers believe that it stays)."""
    return bus.connected


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Client]:
    """A connection of nats-py's own."""
    client = await nats.connect(url)
    yield client
    await client.close()


# --- the server goes and comes back --------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_under_subscribers_and_readers(
    server: Restartable, bus: JetStreamBus, how: str
) -> None:
    other = await connect(server.url, "b", prefix="x")
    messages: Seen[Message] = Seen()
    await other.subscribe("x.*", messages)
    async with reading(other, LOG) as entries:
        for seq in range(5):
            await bus.append(LOG, str(seq + 1).encode(), seq, TIMEOUT_S)
        await entries.count(5)

        await (server.kill() if how == "kill" else server.stop())
        await until(lambda: not bus.connected and not other.connected, "the loss is noticed")
        await bus.publish("x.1", b"published while down")
        assert isinstance(await outcome(bus.append(LOG, b"6", 5, 0.1)), OutcomeUnknown)
        assert (bus.reconnects, other.reconnects) == (0, 0)
        # Without the sender: its buffer must not go out before the receiver is back.
        waiting = asyncio.create_task(bus.append(LOG, b"6", 5, 3600.0))
        await server.start()

        await until(lambda: bus.connected and other.connected, "both are connected again")
        assert (bus.reconnects, other.reconnects) == (1, 1)
        assert await waiting == 6
        await bus.publish("x.2", b"published after")
        await messages.until(lambda seen: any(m.subject == "x.2" for m in seen))
        assert await bus.append(LOG, b"7", 6, TIMEOUT_S) == 7
        await entries.count(7)
    assert [(e.seq, e.data) for e in entries.all] == [(n, str(n).encode()) for n in range(1, 8)]
    found = await bus.read(LOG, 1, 100)
    assert [(entry.seq, entry.data) for entry in found] == [(e.seq, e.data) for e in entries.all]
    await other.close()


def websocket_of(directory: Path) -> str:
    """The address that the server has written down."""
    (ports,) = directory.glob("*.ports")
    found: dict[str, list[str]] = msgspec.json.decode(ports.read_bytes())
    return found["websocket"][0]


async def both_ways(here: JetStreamBus, there: JetStreamBus) -> None:
    """Small and large messages and entries go from one to the other; both are closed."""
    seen: Seen[Message] = Seen()
    await there.subscribe("x.*", seen)
    await here.create_log(LOG)
    large = b"y" * 300_000
    for seq, data in enumerate((b"1", large, b"3")):
        await here.publish(f"x.{seq}", data)
        assert await here.append(LOG, data, seq, TIMEOUT_S) == seq + 1
    await seen.count(3)
    assert [message.data for message in seen.all] == [b"1", large, b"3"]
    assert [entry.data for entry in await here.read(LOG, 1, 10)] == [b"1", large, b"3"]
    await here.close()
    await there.close()


# nats-py's own use of aiohttp.
@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")
async def test_over_a_websocket(nats_binary: str, tmp_path: Path) -> None:
    config = f"""
        jetstream {{ store_dir: "{tmp_path}/data" }}
        websocket {{ listen: "127.0.0.1:-1", no_tls: true }}
    """
    async with server_with(nats_binary, tmp_path, config) as address:
        url = websocket_of(tmp_path)
        here, there = await connect(url, "a", prefix="x"), await connect(address, "b", prefix="x")
        await both_ways(here, there)


async def test_over_tls(nats_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_authority(tmp_path)
    config = f"""
        jetstream {{ store_dir: "{tmp_path}/data" }}
        tls {{ cert_file: "{tmp_path}/ca.crt", key_file: "{tmp_path}/key.pem" }}
    """
    async with server_with(nats_binary, tmp_path, config) as url:
        address = url.removeprefix("tls://")
        with pytest.raises(BusUnavailable, match="certificate"):
            await connect(address, "a", prefix="x", connect_timeout_s=0.5)
        monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/ca.crt")
        here = await connect(url, "a", prefix="x")
        there = await connect(address, "b", prefix="x")  # the server says that it must be
        await both_ways(here, there)


async def test_what_is_published_while_down_arrives_in_order(
    server: Restartable, bus: JetStreamBus
) -> None:
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.>", seen)
    await server.stop()
    await until(lambda: not bus.connected, "the loss is noticed")
    for number in range(100):
        await bus.publish(f"x.{number}", b"", reply="_INBOX.a.r", headers={"n": str(number)})
    await server.start()
    await seen.count(100)
    assert [(m.subject, m.reply, m.headers) for m in seen.all] == [
        (f"x.{number}", "_INBOX.a.r", {"n": str(number)}) for number in range(100)
    ]


MALFORMED: list[tuple[str, str, dict[str, str]]] = [
    ("no subject", "", {}),
    ("x.y", "no subject", {}),
    ("x.y\r\nPUB x.y 0\r\n", "", {}),
    ("x.y", "", {"key": "v\r\nother: v"}),
    ("x.y", "", {"key\n": "v"}),
]


@pytest.mark.parametrize(("subject", "reply", "headers"), MALFORMED)
async def test_what_would_break_the_protocol_is_refused(
    bus: JetStreamBus, subject: str, reply: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"subject|line break"):
        await bus.publish(subject, b"", reply, headers)
    await bus.flush()
    assert bus.reconnects == 0


async def test_the_buffer_has_a_limit(server: Restartable, bus: JetStreamBus) -> None:
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.>", seen)
    await server.stop()
    await until(lambda: not bus.connected, "the loss is noticed")
    room = BUFFER_MAX // 2 - 100
    await bus.publish("x.1", bytes(room))
    await bus.publish("x.2", bytes(room))
    with pytest.raises(BusUnavailable, match=str(BUFFER_MAX)):
        await bus.publish("x.3", bytes(1000))
    for subject, reply, headers in MALFORMED:
        with pytest.raises(ValueError, match=r"subject|line break"):
            await bus.publish(subject, b"", reply, headers)
    await server.start()
    assert [message.subject for message in await seen.count(2)] == ["x.1", "x.2"]
    # There is room again.
    await bus.publish("x.4", bytes(room))
    await seen.count(3)


async def test_calls_wait_for_the_server_to_come_back(
    server: Restartable, bus: JetStreamBus
) -> None:
    await bus.append(LOG, b"1", 0, TIMEOUT_S)
    await bus.state_create("k", b"v")
    await server.stop()
    await until(lambda: not bus.connected, "the loss is noticed")
    seen: Seen[Message] = Seen()
    calls = [
        asyncio.create_task(call)
        for call in (
            bus.read(LOG, 1, 1),
            bus.state_get("k"),
            bus.server_time(),
            bus.subscribe("x.y", seen),
            bus.flush(),
        )
    ]
    await asyncio.sleep(0)
    await server.start()
    page, value, now, _, _ = await asyncio.gather(*calls)
    assert isinstance(page, list)
    assert [entry.data for entry in page] == [b"1"]
    assert value == b"v"
    assert isinstance(now, float)
    await bus.publish("x.y", b"")
    await seen.count(1)


async def test_while_the_server_is_away_calls_fail_in_time(
    server: Restartable, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.bus.nats_link.CALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr("swarm.bus.jetstream.CALL_TIMEOUT_S", 0.2)
    await server.stop()
    await until(lambda: not bus.connected, "the loss is noticed")
    calls = {
        "append": (bus.append(LOG, b"", 0, 0.2), OutcomeUnknown),
        "read": (bus.read(LOG, 1, 1), BusError),
        "request": (bus.request("x.y", b"", 0.2), BusError),
        "subscribe": (bus.subscribe("x.y", Seen[Message]()), BusUnavailable),
        "flush": (bus.flush(), BusUnavailable),
    }
    for name, (call, error) in calls.items():
        async with asyncio.timeout(3.0):
            assert isinstance(await outcome(call), error), name


async def test_an_append_whose_answer_is_lost_fails_at_once(
    server: Restartable, bus: JetStreamBus
) -> None:
    # A stopped server takes the append, but cannot answer it.
    server.signal(signal.SIGSTOP)
    waiting = asyncio.create_task(outcome(bus.append(LOG, b"1", 0, 3600.0)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await server.kill()
    async with asyncio.timeout(TIMEOUT_S):
        assert isinstance(await waiting, OutcomeUnknown)


async def test_a_connection_that_died_in_silence_is_noticed(
    server: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_dialing, "PING_INTERVAL_S", 0.2)
    bus = await connect(server.url, "a", prefix="x")
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.y", seen)
    server.signal(signal.SIGSTOP)
    # Bytes that nobody takes must not hold up the notice.
    stuck = [asyncio.create_task(outcome(bus.publish("x.big", bytes(900_000)))) for _ in range(8)]
    await until(lambda: not bus.connected, "the silence is noticed")
    server.signal(signal.SIGCONT)
    await until(lambda: bus.connected, "connected again")
    assert bus.reconnects == 1
    await bus.publish("x.y", b"")
    await seen.count(1)
    await asyncio.gather(*stuck)
    await bus.close()


def test_silence_is_noticed_within_ten_seconds() -> None:
    # A ping is missed at the third one after the last that was answered.
    assert 3 * nats_dialing.PING_INTERVAL_S <= 10


async def test_publishers_wait_while_the_server_takes_nothing(
    server: Restartable, bus: JetStreamBus
) -> None:
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.n", seen)
    server.signal(signal.SIGSTOP)

    async def publish_much() -> None:
        for _ in range(60):
            await bus.publish("x.big", bytes(500_000))
        await bus.publish("x.n", b"")

    publishing = asyncio.create_task(publish_much())
    done, _ = await asyncio.wait({publishing}, timeout=0.5)
    assert not done, "30 MB were buffered without anybody taking them"
    server.signal(signal.SIGCONT)
    await publishing
    await seen.count(1)
    assert bus.reconnects == 0


async def test_a_publisher_that_waits_can_be_cancelled(
    server: Restartable, bus: JetStreamBus
) -> None:
    server.signal(signal.SIGSTOP)

    async def publish_for_ever() -> None:
        while True:
            await bus.publish("x.big", bytes(500_000))

    publishing = asyncio.create_task(publish_for_ever())
    done, _ = await asyncio.wait({publishing}, timeout=0.5)
    assert not done
    publishing.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(asyncio.CancelledError):
            await publishing
    server.signal(signal.SIGCONT)


# --- what used to end a connection for ever ------------------------------------------


async def test_an_answer_to_a_flush_that_was_given_up(
    server: Restartable, bus: JetStreamBus
) -> None:
    server.signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bus.flush()
    server.signal(signal.SIGCONT)
    await bus.flush()
    await bus.request("$JS.API.INFO", b"", TIMEOUT_S)
    assert bus.reconnects == 0


async def test_an_error_that_closes_the_client(server: Restartable, bus: JetStreamBus) -> None:
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.y", seen)
    client = bus._client
    assert client is not None
    # Past the size guard, to be thrown out by the server.
    await client.publish("x.y", bytes(client.max_payload), headers={"one": "too many"})
    await until(lambda: bus.reconnects == 1, "connected again")
    await bus.publish("x.y", b"after")
    assert [message.data for message in await seen.count(1)] == [b"after"]
    await bus.append(LOG, b"1", 0, TIMEOUT_S)
    assert [entry.data for entry in await bus.read(LOG, 1, 10)] == [b"1"]


async def test_a_client_whose_reading_ended(server: Restartable, bus: JetStreamBus) -> None:
    client = bus._client
    assert client is not None
    assert client._reading_task is not None
    client._reading_task.cancel()
    await until(lambda: bus.reconnects == 1, "connected again")
    await bus.flush()


async def test_a_reply_subject_that_is_too_long(bus: JetStreamBus) -> None:
    with pytest.raises(PayloadTooLarge, match="limit is 4000"):
        await bus.publish("x.y", b"", reply="_INBOX.evil." + 4000 * "x")
    with pytest.raises(PayloadTooLarge, match="limit is 4000"):
        await bus.publish("x.y", b"", reply="_INBOX.evil." + 2000 * "ü")
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.y", seen)
    await bus.publish("x.y", b"", reply="_INBOX.a." + 3900 * "x")
    await seen.count(1)
    assert bus.reconnects == 0


@pytest.mark.parametrize(
    "headers",
    [
        b"NATS/1.0 100 \xff\xfe\r\n\r\n",
        b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
    ],
)
async def test_headers_that_nobody_expects(
    server: Restartable, bus: JetStreamBus, headers: bytes
) -> None:
    seen: Seen[Message] = Seen()
    await bus.subscribe("x.>", seen)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    size = len(headers)
    writer.write(b"HPUB x.odd %d %d\r\n%s\r\nPUB x.end 0\r\n\r\n" % (size, size, headers))
    await seen.until(lambda messages: any(m.subject == "x.end" for m in messages))
    writer.close()
    await writer.wait_closed()
    assert bus.reconnects == 0


# --- logs as others see and change them ----------------------------------------------


async def test_how_a_log_and_the_state_are_stored(server: Restartable, bus: JetStreamBus) -> None:
    assert await bus.state_create("map", b"1")
    async with plain(server.url) as client:
        manager = client.jetstream()
        log = (await manager.stream_info("xlog_0")).config
        assert log.subjects == [LOG]
        assert (log.storage, log.retention, log.discard) == ("file", "limits", "new")
        assert (log.num_replicas, log.max_age, log.allow_direct) == (1, 0, True)
        assert (log.deny_purge, log.deny_delete) == (False, True)
        assert (log.max_msgs, log.max_bytes) == (-1, -1)
        # NATS's own key-value clients can read the state, and write it.
        bucket = await manager.key_value("x-state")
        assert (await bucket.get("map")).value == b"1"
        assert (await manager.stream_info("KV_x-state")).config.allow_direct is True
        await bucket.delete("map")
        assert await bus.state_get("map") is None
        assert await bus.state_create("map", b"2") is True
        assert await bus.state_create("map", b"3") is False
        await bucket.purge("map")
        results = await asyncio.gather(*(bus.state_create("map", b"4") for _ in range(5)))
        assert sorted(results) == [False] * 4 + [True]
        assert (await bucket.get("map")).value == b"4"


async def test_a_log_that_an_operator_has_changed_stays_as_it_is(
    server: Restartable, bus: JetStreamBus
) -> None:
    async with plain(server.url) as client:
        manager = client.jetstream()
        config = (await manager.stream_info("xlog_0")).config
        await manager.update_stream(config.evolve(max_bytes=10_000_000))
        await bus.create_log(LOG)
        assert (await manager.stream_info("xlog_0")).config.max_bytes == 10_000_000


async def test_streams_of_others_in_our_place(server: Restartable, bus: JetStreamBus) -> None:
    async with plain(server.url) as client:
        manager = client.jetstream()
        await manager.add_stream(name="theirs", subjects=["xlog.7"])
        await manager.add_stream(name="xlog_8", subjects=["something.else"])
    with pytest.raises(BadInput, match=r"xlog\.7.*choose another prefix"):
        await bus.create_log("xlog.7")
    with pytest.raises(BadInput, match=r"xlog\.8.*choose another prefix"):
        await bus.create_log("xlog.8")


async def test_entries_are_purged_from_the_front_only(
    server: Restartable, bus: JetStreamBus
) -> None:
    for seq in range(10):
        await bus.append(LOG, b"", seq, TIMEOUT_S)
    async with plain(server.url) as client:
        manager = client.jetstream()
        await manager.purge_stream("xlog_0", seq=4)
        with pytest.raises(ServerError, match="not permitted"):
            await manager.delete_msg("xlog_0", 6)
    assert [entry.seq for entry in await bus.read(LOG, 1, 4)] == [4, 5, 6, 7]
    assert await bus.append(LOG, b"", 10, TIMEOUT_S) == 11
    assert [entry.seq for entry in await bus.read(LOG, 1, 100)] == [4, 5, 6, 7, 8, 9, 10, 11]
    async with plain(server.url) as client:
        await client.jetstream().purge_stream("xlog_0")
    assert await bus.read(LOG, 1, 4) == []
    assert await bus.append(LOG, b"", 11, TIMEOUT_S) == 12
    assert [entry.seq for entry in await bus.read(LOG, 1, 4)] == [12]


async def test_a_long_purge_goes_in_steps(
    server: Restartable, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seq in range(50):
        await bus.append(LOG, bytes(1000), seq, TIMEOUT_S)
    monkeypatch.setattr(jetstream, "PURGE_BYTES", (await bus.log_info(LOG)).bytes // 10)
    monkeypatch.setattr(jetstream, "PURGE_PAUSE_S", 0.0)
    asked: Seen[Message] = Seen()
    operator = await connect(server.url, "o")
    await operator.subscribe("$JS.API.STREAM.PURGE.>", asked)
    await bus.purge(LOG, 44)
    async with asyncio.timeout(TIMEOUT_S):
        steps = [int(message.data.strip(b'{"seq:}')) for message in await asked.count(9)]
    assert steps == [6, 11, 16, 21, 26, 31, 36, 41, 44]
    info = await bus.log_info(LOG)
    assert (info.first_seq, info.last_seq) == (44, 50)
    # What is no purge at all is not even asked for.
    for below_seq in (-5, 0, 1, 44):
        await bus.purge(LOG, below_seq)
    await operator.flush()
    assert len(asked.all) == 9
    await operator.close()


async def test_foreign_messages_in_a_log(server: Restartable, bus: JetStreamBus) -> None:
    forged = {
        "Nats-Sequence": "77",
        "Nats-Last-Sequence": "77",
        "Nats-Time-Stamp": "yesterday",
        "Status": "204",
    }
    async with plain(server.url) as client:
        manager = client.jetstream()
        await manager.publish(LOG, b"no envelope")
        await manager.publish(LOG, b"", headers=forged)
        await manager.publish(LOG, b"", headers={"Status": "404", "Description": "not at all"})
    assert await bus.append(LOG, b"ours", 3, TIMEOUT_S) == 4
    expected = [(1, b"no envelope"), (2, b""), (3, b""), (4, b"ours")]
    assert [(entry.seq, entry.data) for entry in await bus.read(LOG, 1, 10)] == expected


# --- connecting and closing ----------------------------------------------------------


async def test_nobody_at_the_address() -> None:
    began = time.monotonic()
    with pytest.raises(BusUnavailable, match=r"nats://127\.0\.0\.1:1: .*Connect call failed"):
        await connect("nats://user:secret@127.0.0.1:1", "a", connect_timeout_s=0.3)
    assert time.monotonic() - began < 3.0


async def test_a_server_that_says_nothing() -> None:
    # Connections are taken by the system, but nobody ever looks at them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BusUnavailable, match="no answer in time"):
            await connect(f"127.0.0.1:{port}", "a", connect_timeout_s=0.3)


async def test_the_second_of_two_addresses(server: Restartable) -> None:
    bus = await connect(f"nats://127.0.0.1:1, {server.url}", "a")
    await bus.flush()
    await bus.close()


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fake_server(speak: Speak) -> AsyncIterator[str]:
    """Whoever connects is spoken to by `speak`; gives the URL."""
    conversations: list[asyncio.Task[None]] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.append(task)
        await speak(reader, writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*conversations, return_exceptions=True)


async def test_the_second_where_the_first_hangs_up(server: Restartable) -> None:
    hung_up = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {")
        hung_up.set()

    async with fake_server(hang_up) as url:
        # nats-py begins with any of them.
        while not hung_up.is_set():
            bus = await connect(f"{url}, {server.url}", "a")
            await bus.flush()
            await bus.close()


async def test_what_is_no_protocol_ends_the_connection() -> None:
    """A server that speaks NATS at first, and then does not."""
    info = {"version": "2.15.1", "max_payload": 1_000_000, "headers": True, "server_id": "fake"}

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + msgspec.json.encode(info) + b"\r\n")
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            elif line.startswith(b"PUB x.y "):
                writer.write(b"PING\r\nHELLO\r\nPING\r\n")

    async with fake_server(speak) as url:
        bus = await connect(url, "a")
        await bus.publish("x.y", b"")
        await until(lambda: bus.reconnects == 1, "connected again")
        await bus.flush()
        await bus.close()


@pytest.mark.parametrize(
    ("url", "sender"),
    [
        ("", "a"),
        (" , ", "a"),
        ("nats://host:port", "a"),
        ("nats://127.0.0.1:4222", ""),
        ("nats://127.0.0.1:4222", "a.b"),
        ("nats://127.0.0.1:4222", "a b"),
        ("nats://127.0.0.1:4222", "*"),
        ("nats://127.0.0.1:4222", "ü"),
        ("nats://127.0.0.1:4222", "a\n"),
    ],
)
async def test_bad_arguments(url: str, sender: str) -> None:
    with pytest.raises(BadInput, match=r"sender|NATS"):
        await connect(url, sender, connect_timeout_s=0.3)


async def test_whom_the_server_does_not_let_in(nats_binary: str, tmp_path: Path) -> None:
    config = "authorization { user: u, password: right }"
    async with server_with(nats_binary, tmp_path, config) as address:
        began = time.monotonic()
        with pytest.raises(BusUnavailable, match="Authorization Violation") as error:
            await connect(f"nats://u:wrong@{address}", "a", connect_timeout_s=30.0)
        assert "wrong" not in str(error.value)
        assert time.monotonic() - began < 10.0
        bus = await connect(f"nats://u:right@{address}", "a")
        await bus.flush()
        await bus.close()


async def test_what_the_server_does_not_permit(nats_binary: str, tmp_path: Path) -> None:
    config = """
    authorization { users: [{ user: u, password: p, permissions {
      publish { allow: ["x.>"] }, subscribe { allow: ["x.>", "_INBOX.a.>"] } } }] }
    """
    async with server_with(nats_binary, tmp_path, config) as address:
        bus = await connect(f"nats://u:p@{address}", "a")
        seen: Seen[Message] = Seen()
        await bus.subscribe("x.>", seen)
        await bus.publish("secret", b"")
        await bus.subscribe("secret", Seen[Message]())
        await bus.publish("x.y", b"")
        await seen.count(1)
        # The connection's own inbox is all that answers need.
        with pytest.raises(BusError):
            await bus.request("x.nobody.listens.but.us", b"", 0.2)
        assert bus.reconnects == 0
        await bus.close()


async def test_a_server_without_jetstream(nats_binary: str, tmp_path: Path) -> None:
    async with server_with(nats_binary, tmp_path, "") as address:
        bus = await connect(f"nats://{address}", "a")
        for call in (bus.create_log(LOG), bus.state_create("k", b""), bus.server_time()):
            with pytest.raises(BusUnavailable, match="`jetstream` block"):
                await call
        await bus.close()


async def test_closing_leaves_nothing_running(server: Restartable) -> None:
    before = asyncio.all_tasks()
    bus = await connect(server.url, "a", prefix="x")
    await bus.create_log(LOG)
    await bus.subscribe("x.y", Seen[Message]())
    await bus.read(LOG, 1, 1)
    await bus.close()
    await until(lambda: asyncio.all_tasks() == before, "its tasks have ended")


async def test_closing_while_the_server_is_away(server: Restartable) -> None:
    bus = await connect(server.url, "a", prefix="x")
    await bus.create_log(LOG)
    await bus.subscribe("x.y", Seen[Message]())
    await server.stop()
    await until(lambda: not is_connected(bus), "the loss is noticed")
    async with asyncio.timeout(3.0):
        await bus.close()
    assert bus.reconnects == 0


async def test_closing_while_the_server_is_frozen(server: Restartable) -> None:
    bus = await connect(server.url, "a", prefix="x")
    server.signal(signal.SIGSTOP)
    async with asyncio.timeout(5.0):
        await bus.close()
    server.signal(signal.SIGCONT)
