"""The work of the recovery tests: handlers that record what they run, in real agents."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path

from swarm.sdk.context import Context
from swarm.testing.history import ExecutionLog

#: Names the directory for the records.
RECORDS_ENV = "RECOVERY_RECORDS"


def work(context: Context) -> int:
    """Take as many seconds as the payload says."""
    with _records().execution(context.work_item_id, context.token):
        seconds = context.payload["seconds"]
        threading.Event().wait(seconds)
        return int(context.payload["number"])


@cache
def _records() -> ExecutionLog:
    return ExecutionLog(Path(os.environ[RECORDS_ENV]))
