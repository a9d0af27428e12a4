"""What a run was made on: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("swarm", "msgspec", "nats-py", "uvloop")
#: File systems that live in memory: there a sync costs nothing.
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}
PROBE_STEPS = 300_000


def describe(data_dir: Path, server_binary: str) -> dict[str, str | int | float]:
    """CPU, memory, system, versions, and the file system below `data_dir`."""
    found: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gb": _memory_gb(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(data_dir),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "nats-server": _server_version(server_binary),
    }
    return found | {package: _version(package) for package in PACKAGES}


def probe_ms() -> float:
    """How long a fixed loop takes now: tells a disturbed session from a quiet one."""
    started = time.perf_counter()
    total = 0
    for number in range(PROBE_STEPS):
        total += number
    return (time.perf_counter() - started) * 1000


def file_system(path: Path) -> str:
    """The kind of file system that `path` lies on, "unknown" where that cannot be read."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    kind, length = "unknown", -1
    for line in mounts.read_text("utf-8").splitlines():
        _, where, name, *_ = line.split()
        if path.resolve().is_relative_to(where) and len(where) >= length:
            kind, length = name, len(where)
    return kind


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (OSError, ValueError):
        return 0.0  # not told by this system


def _server_version(binary: str) -> str:
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().removeprefix("nats-server: v")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed in {sys.prefix}"


def rss_bytes(pid: int) -> int:
    """Resident set of a process; 0 where there is no /proc."""
    statm = Path(f"/proc/{pid}/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_pid() -> int:
    """This process."""
    return os.getpid()


def pids() -> list[int]:
    """All processes; [] where there is no /proc."""
    proc = Path("/proc")
    return (
        [int(path.name) for path in proc.iterdir() if path.name.isdigit()] if proc.exists() else []
    )


def group_of(pid: int) -> int:
    """A process's group; 0 once it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
