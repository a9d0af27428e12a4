"""Real `swarm` processes for tests, apart from whatever else runs on the machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from prometheus_client.parser import text_string_to_metric_families

from swarm.messages import ShardStats
from swarm.sdk.client import Swarm
from swarm.testing.ports import free_ports

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0
POLL_S = 0.02

#: Quick enough for tests; a start is not slower than with the defaults.
SHORT = {"SHARD_COUNT": "4", "LEASE_S": "4", "HEARTBEAT_S": "0.5"}


def until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The condition's value once it is true; fails naming `what` after the deadline."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"not within {deadline_s} s: {what}"
        threading.Event().wait(POLL_S)


class Place:
    """A home of its own: commands run here find only what runs here."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path = path
        self.data = path / "data"
        hidden = ("NATS_URL", "SWARM_", "XDG_", "SHARD_", "LEASE_S", "HEARTBEAT_S", "HTTP_PORT")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self.env |= {"HOME": str(path), "XDG_RUNTIME_DIR": str(path / "run"), **settings}
        (self.nats_port,) = free_ports(1)
        self._started: list[subprocess.Popen[str]] = []
        self._ups: list[Up] = []

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start `swarm …`; its output can be read from the process."""
        return self._start(arguments, settings, subprocess.DEVNULL)

    def start_with_pipe(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """The same; what it reads from stdin can be written to the process."""
        return self._start(arguments, settings, subprocess.PIPE)

    def _start(
        self, arguments: Sequence[str], settings: Mapping[str, str], stdin: int
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "swarm", *arguments],
            env={**self.env, "PYTHONPATH": str(ROOT), **settings},
            cwd=self.path,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `swarm …` to its end."""
        process = self.start(*arguments, **settings)
        out, err = process.communicate(timeout=2 * DEADLINE_S)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str) -> Any:
        """Run `swarm … --json` to a good end; what it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self, *arguments: str, **settings: str) -> Up:
        """`swarm up`, ready."""
        up = Up(self, arguments, settings)
        self._ups.append(up)
        up.until_ready()
        return up

    def pids(self) -> list[int]:
        """Every process that was started here, by us or by what we started."""
        mark = f"HOME={self.path}".encode()
        return [pid for pid, environment in _environments() if mark in environment.split(b"\0")]

    def until_empty(self) -> None:
        """Return once all of them are gone."""
        until("no process is left", lambda: not self.pids())

    def clean(self) -> None:
        """End all that is left; whatever a test did, the counts of its swarms add up."""
        try:
            for up in self._ups:
                up.check_conservation()
        finally:
            self._end_all()

    def _end_all(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for pid in self.pids():
            kill(pid)


class Up:
    """A `swarm up` and what it says."""

    def __init__(self, place: Place, arguments: tuple[str, ...], settings: dict[str, str]) -> None:
        self._began = time.monotonic()
        where = () if "--data" in arguments else ("--data", str(place.data))
        port = [] if "--http-port" in arguments else ["--http-port", "0"]
        if "--port" in arguments:
            place.nats_port = 0  # from here on it is the test's affair
        elif place.nats_port:
            # The same again after a restart, and nobody else's: tests run beside each other.
            port += ["--port", str(place.nats_port)]
        self.process = place.start("up", *where, *port, *arguments, **settings)
        self.out: list[str] = []
        self.err: list[str] = []
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            assert stream is not None
            threading.Thread(target=_collect, args=(stream, lines), daemon=True).start()
        self.ready_s = 0.0
        self.nats_url = self.http_url = ""

    def until_ready(self) -> None:
        """Return once it said that it is ready."""
        until("ready", lambda: self.out or self.process.poll() is not None)
        assert self.out, f"ended with {self.process.poll()}: {''.join(self.err)}"
        self.ready_s = time.monotonic() - self._began
        word, self.nats_url, self.http_url = self.out[0].split()
        assert word == "ready"

    def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON) of an HTTP request."""
        try:
            with urllib.request.urlopen(self.http_url + path, timeout=DEADLINE_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def metrics(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Figures by name and values of their labels, as Prometheus reads them; {} if gone."""
        try:
            with urllib.request.urlopen(self.http_url + "/metrics", timeout=DEADLINE_S) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
        return found

    def check_conservation(self) -> None:
        """If it runs: no item is lost or counted twice in any of its shards."""
        if self.process.poll() is not None or not self.http_url:
            return
        off = self.metrics().get("swarmsh_conservation", {})
        assert not any(off.values()), f"items do not add up, by shard: {off}"

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What it has logged under this name so far."""
        found = [json.loads(line) for line in list(self.err) if line.startswith("{")]
        return [entry for entry in found if entry["event"] == event]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it in order; its exit code."""
        self.check_conservation()
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def _collect(stream: IO[str], lines: list[str]) -> None:
    # Closed while it is read: the test is over.
    try:
        lines.extend(iter(stream.readline, ""))
    except ValueError:
        return


def _environments() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        # It may end while we look at it.
        try:
            yield int(path.parent.name), path.read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def kill(pid: int) -> None:
    """kill -9; nothing if it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def command_of(pid: int) -> list[str]:
    """The command line of a process; [] when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


class TakenPort:
    """A port in use."""

    def __enter__(self) -> int:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.close()


async def check_conservation(swarm: Swarm) -> None:
    """No item is lost or counted twice, by the words of every shard's owner."""
    for shard, stats in (await swarm.stats(timeout_s=DEADLINE_S)).items():
        assert isinstance(stats, ShardStats), f"shard {shard}: {stats}"
        assert stats.conservation == 0, f"shard {shard}: {stats}"
        assert stats.walked_at == stats.as_of, f"shard {shard} was not walked over: {stats}"
