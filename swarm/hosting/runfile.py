"""The run file: how a client on this machine finds a running `swarm up`.

`swarm up` writes ``up.json`` (`RunFile`) into its data directory and a copy into a place
of the user's, and holds a file lock on the copy as long as it lives.  A copy that nobody
holds is left over from a process that was killed: the system drops a dead process's
locks, whatever happened to its process id since.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from swarm.errors import BadInput

#: A reader holds a run file's lock for a moment to see whether its writer lives.
LOCK_TRIES_S = 1.0

HOW_TO_START = "start one with `swarm up`, or name a server with --nats-url or NATS_URL"


class RunFile(msgspec.Struct, frozen=True):
    """Where a running `swarm up` can be reached."""

    nats_url: str
    http_url: str
    pid: int
    data_dir: str
    prefix: str = "swarm"


class Announcement:
    """The run file of a `swarm up`: held from its start, filled in when it is ready."""

    def __init__(self, data_dir: Path, env: Mapping[str, str]) -> None:
        """Hold it; `BadInput` when it cannot be written, or another process holds it."""
        self._local = data_dir / "up.json"
        name = hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
        self._path, self._file = _create_and_hold(f"up-{name}.json", env)
        # What a killed predecessor left says nothing any more.
        os.ftruncate(self._file, 0)

    def publish(self, run: RunFile) -> None:
        """From now on clients find it."""
        text = msgspec.json.encode(run)
        os.pwrite(self._file, text, 0)
        self._local.write_bytes(text)

    def withdraw(self) -> None:
        """Take it back; safe to call twice."""
        if self._file < 0:
            return
        for path in (self._local, self._path):
            # Somebody tidied up before us: that is what we want.
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, -1
        os.close(file)


def find_url(env: Mapping[str, str] | None = None) -> str:
    """The NATS URL to use: ``NATS_URL``, else that of the running `swarm up`.

    Raises `BadInput` when there is none, or more than one.
    """
    env = os.environ if env is None else env
    if env.get("NATS_URL", "").strip():
        return env["NATS_URL"].strip()
    return find_run(env).nats_url


def find_run(env: Mapping[str, str]) -> RunFile:
    """The one running `swarm up` of this user; `BadInput` when there is none or several."""
    running = list(_running(env))
    if not running:
        raise BadInput(f"no swarm is running here; {HOW_TO_START}")
    if len(running) > 1:
        listed = ", ".join(f"{run.nats_url} ({run.data_dir}, pid {run.pid})" for run in running)
        raise BadInput(
            f"{len(running)} swarms are running here: {listed}; "
            "name the one that you mean with --nats-url or NATS_URL"
        )
    return running[0]


def _places(env: Mapping[str, str]) -> list[Path]:
    """Where run files may be, the preferred place first."""
    places = []
    if runtime := env.get("XDG_RUNTIME_DIR", ""):
        places.append(Path(runtime) / "swarm")
    if cache := env.get("XDG_CACHE_HOME", ""):
        places.append(Path(cache) / "swarm")
    elif home := env.get("HOME", ""):
        places.append(Path(home) / ".cache" / "swarm")
    return places


def _running(env: Mapping[str, str]) -> list[RunFile]:
    found = {}
    for place in _places(env):
        for path in sorted(place.glob("up-*.json")):
            run = _read_held(path)
            if run is not None:
                found[run.pid, run.data_dir] = run
    return list(found.values())


def _read_held(path: Path) -> RunFile | None:
    """What the file says, if a live process holds it."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return msgspec.json.decode(file.read(), type=RunFile)
    except (OSError, msgspec.MsgspecError):
        # Gone meanwhile, another user's, or half written: nobody to be found there.
        return None
    return None


def _create_and_hold(name: str, env: Mapping[str, str]) -> tuple[Path, int]:
    give_up_at = time.monotonic() + LOCK_TRIES_S
    while True:
        path, file = _create(name, env)
        if _lock(file) and _is_at(file, path):
            return path, file
        os.close(file)
        if time.monotonic() > give_up_at:
            raise BadInput(
                f"another `swarm up` with this data directory is running ({path} is locked); "
                "stop it first, or use another --data directory"
            )
        time.sleep(0.02)


def _create(name: str, env: Mapping[str, str]) -> tuple[Path, int]:
    problems = []
    for place in _places(env):
        path = place / name
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    raise BadInput(
        "there is no place for the run file by which clients find this swarm: "
        f"{'; '.join(problems) or 'no XDG_RUNTIME_DIR and no HOME'}; "
        "set XDG_RUNTIME_DIR to a directory of yours"
    )


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: its last holder removes it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
