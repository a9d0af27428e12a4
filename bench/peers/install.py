"""The peers' environments, each of its own: what they ask for does not go together."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.child import Failed
from bench.peers.plan import PEERS, REDIS, Peer

#: Below the repository, where `make clean` finds it.
HOME = Path(__file__).resolve().parent.parent.parent / "build" / "peers"
STAMP = "installed"


def ensure(peer: Peer, home: Path = HOME) -> Path:
    """Its environment, made and filled if it is not there yet; raises `Failed`."""
    environment = home / peer.name
    stamp = environment / STAMP
    wanted = "\n".join(peer.packages)
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return environment
    print(f"installing {peer.title}: {', '.join(peer.packages)}", file=sys.stderr, flush=True)
    _call([sys.executable, "-m", "venv", "--clear", str(environment)], peer)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _call([*pip, "--disable-pip-version-check", *peer.packages], peer)
    stamp.write_text(wanted, "utf-8")
    return environment


def _call(command: list[str], peer: Peer) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n  ".join(done.stderr.splitlines()[-8:])
        raise Failed(f"{peer.title} was not installed ({' '.join(command[:4])} …):\n  {said}")


def redis_server() -> str:
    """The program; "" where there is none."""
    return shutil.which("redis-server") or ""


def redis_version() -> str:
    """As it says itself."""
    command = [redis_server(), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return next((word[2:] for word in said if word.startswith("v=")), "unknown")


def chosen() -> tuple[list[Peer], list[str]]:
    """Peers that can run here, and what is said of the others."""
    if redis_server():
        return list(PEERS), []
    left_out = [peer.title for peer in PEERS if REDIS in peer.brokers]
    why = "no redis-server on PATH; `make bench-deps` installs it on Debian"
    return (
        [peer for peer in PEERS if REDIS not in peer.brokers],
        [f"left out: {', '.join(left_out)}: {why}"],
    )
