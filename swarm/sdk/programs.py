"""Work done by any program: the item goes in as JSON, lines of its output come back.

stdin: the item, with what was left for it.  Environment: its fields in ``SWARM_*``.  The exit
code decides: 0 means done, and the last line of stdout that is JSON is the result; anything
else means that the attempt failed, and the end of stderr says why.  These lines of stdout
have a meaning of their own, see `swarm.sdk.output`::

    progress 40 half way          reported at once
    checkpoint {"page": 3}        kept for whoever works on the item next
    wait 2h {"approve": "v1.2"}   with exit code 0: the item waits for an answer
    retry 10m                     with another exit code: try again, not before that
    give-up                       with another exit code: do not try again

SIGTERM means that the work is to stop; a checkpoint may still be printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Collection
from typing import IO, Any, Literal, NoReturn, Protocol

import msgspec

from swarm.sdk.endings import GiveUp, RetryLater
from swarm.sdk.items import ClaimedItem
from swarm.sdk.output import Output

#: Of stderr, the last of this makes the failure's message.
ERROR_BYTES_MAX = 2000
#: A single environment variable can hold 128 KiB on Linux; text beyond this is cut.
ENV_BYTES_MAX = 32 * 1024
#: After SIGTERM, a program has this long to end before SIGKILL, unless it was given another
#: grace time; less than what a leaving agent waits for its handlers.
GRACE_S = 4.0
#: Output is read on for this long after the program ended: what it left in the background
#: may hold the pipe open for ever.
LINGER_S = 1.0


class ProgramFailed(RetryLater):
    """The program ended with another exit code than 0: try again after the item's backoff."""


class Job(Protocol):
    """What of a handler's context is used here."""

    @property
    def claimed(self) -> ClaimedItem:
        """All that came with the claim."""
        ...

    @property
    def grace_s(self) -> float:
        """How long the work may still be finished once it is to stop."""
        ...

    def progress_sync(self, percent: float, note: str = "") -> None:
        """Report how far it is, at once; raises when the work is to stop."""
        ...

    def checkpoint_soon(self, value: Any) -> None:
        """Leave something for whoever goes on; raises when the item is not held any more."""
        ...

    def wait_for(
        self, what: Any, *, expires_s: float = 0.0, on_expiry: Literal["dead", "resume"] = "dead"
    ) -> NoReturn:
        """End the work: it waits for something outside."""
        ...


class Program:
    """A shell command as a handler."""

    def __init__(self, command: str, agent_id: str) -> None:
        self._command = command
        self._agent_id = agent_id

    async def handle(self, job: Job) -> msgspec.Raw | None:
        """Run it for this item; its result.  Cancelled, it ends the whole process group."""
        output, errors = Output(job.progress_sync, job.checkpoint_soon), bytearray()
        with tempfile.TemporaryFile() as stdin:
            stdin.write(describe(job.claimed))
            stdin.seek(0)
            out, out_end = await _pipe()
            err, err_end = await _pipe()
            try:
                process = await self._start(job.claimed, stdin, out_end, err_end)
            finally:
                os.close(out_end)
                os.close(err_end)
        readers = [
            asyncio.create_task(_read(out, output.feed)),
            asyncio.create_task(_read(err, lambda data: _keep_tail(errors, data))),
        ]
        try:
            code = await _end_of(process, readers)
            await _finish(readers)
        except asyncio.CancelledError:
            # What it says while it stops counts: a checkpoint, or that it has finished in time.
            code = await _stop(process, job.grace_s or GRACE_S)
            await _finish(readers)
            output.end()
            if code != 0 or not (job.grace_s or output.wait) or not output.has_said:
                raise
        finally:
            for reader in readers:
                reader.cancel()
            await _end_group(process)
            out.close()
            err.close()
        output.end()
        return _conclude(job, code, output, errors)

    async def _start(
        self, claimed: ClaimedItem, stdin: IO[bytes], out_end: int, err_end: int
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            self._command,
            stdin=stdin,
            stdout=out_end,
            stderr=err_end,
            env={**os.environ, **environment(claimed, self._agent_id)},
            # A group of its own, so that all of it can be stopped.
            start_new_session=True,
        )


def _conclude(job: Job, code: int, output: Output, errors: bytearray) -> msgspec.Raw | None:
    """The result of a program that has ended; raises what else it meant."""
    if code == 0:
        if output.wait is not None:
            wait = output.wait
            job.wait_for(wait.what, expires_s=wait.expires_s, on_expiry=wait.on_expiry)
        return output.result
    why = _how(code, errors)
    if output.gives_up:
        raise GiveUp(why)
    if output.retry_after_s is not None:
        raise RetryLater(output.retry_after_s, why)
    raise ProgramFailed(None, why)


def describe(claimed: ClaimedItem) -> bytes:
    """The item as the program reads it from stdin."""
    item = claimed.item
    return msgspec.json.encode(
        {
            "work_item_id": claimed.work_item_id,
            "work_type": item.work_type,
            "description": item.description,
            "priority": item.priority,
            "team": item.team,
            "labels": item.labels,
            "story_points": item.story_points,
            "payload": item.payload,
            "attempt": claimed.attempt,
            "token": claimed.token,
            "checkpoint": claimed.checkpoint,
            "answer": claimed.answer,
            "answered_by": claimed.answered_by,
            "waits": claimed.waits,
            "depends": claimed.depends,
        }
    )


def environment(claimed: ClaimedItem, agent_id: str) -> dict[str, str]:
    """The item's fields as environment variables (all that may be long is on stdin only)."""
    item = claimed.item
    fields = {
        "WORK_ITEM_ID": claimed.work_item_id,
        "WORK_TYPE": item.work_type,
        "DESCRIPTION": item.description,
        "PRIORITY": item.priority,
        "TEAM": item.team,
        "LABELS": msgspec.json.encode(item.labels).decode(),
        "STORY_POINTS": "" if item.story_points is None else str(item.story_points),
        "ATTEMPT": str(claimed.attempt),
        "TOKEN": claimed.token,
        "WAITS": str(claimed.waits),
        "ANSWERED_BY": claimed.answered_by,
        "AGENT_ID": agent_id,
        "TRACE": item.trace,
    }
    return {f"SWARM_{name}": _env_text(value) for name, value in fields.items()}


def _env_text(text: str) -> str:
    """`text` as an environment variable can hold it: no NUL, not too long."""
    kept = text.replace("\0", "").encode(errors="replace")[:ENV_BYTES_MAX]
    return kept.decode(errors="ignore")


# --- running ------------------------------------------------------------------------------


class _Pipe:
    """The reading end of a pipe."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.reader = reader
        self._transport = transport

    def close(self) -> None:
        self._transport.close()


async def _pipe() -> tuple[_Pipe, int]:
    """A pipe: our end, and the file descriptor of the program's."""
    # Not asyncio's own: then the end of the program would be known only once everything
    # that it left behind has closed the pipe as well.
    ours, theirs = os.pipe()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**16)
    file = os.fdopen(ours, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return _Pipe(reader, transport), theirs


async def _read(pipe: _Pipe, take: Callable[[bytes], None]) -> None:
    while data := await pipe.reader.read(2**16):
        take(data)


def _keep_tail(tail: bytearray, data: bytes) -> None:
    tail += data
    del tail[:-ERROR_BYTES_MAX]


def _how(code: int, errors: bytearray) -> str:
    if code < 0:
        try:
            ended = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            ended = f"killed by signal {-code}"
    else:
        ended = f"exit code {code}"
    said = errors.decode(errors="replace").strip()
    return f"{ended}: {said}" if said else f"{ended}, and nothing on stderr"


async def _end_of(
    process: asyncio.subprocess.Process, readers: Collection[asyncio.Task[None]]
) -> int:
    """The exit code; raises what is wrong with something that the program said."""
    ended = asyncio.create_task(process.wait())
    try:
        waiting: set[asyncio.Task[Any]] = {ended, *readers}
        while not ended.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        ended.cancel()
    return ended.result()


async def _finish(readers: Collection[asyncio.Task[None]]) -> None:
    """Read what has been said, but not for ever."""
    done, _ = await asyncio.wait(readers, timeout=LINGER_S)
    for reader in done:
        reader.result()


async def _stop(process: asyncio.subprocess.Process, grace_s: float) -> int:
    """The exit code after SIGTERM, and SIGKILL for what does not listen."""
    _signal_group(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_s):
            return await process.wait()
    except TimeoutError:
        _signal_group(process, signal.SIGKILL)
        return await process.wait()
    except asyncio.CancelledError:
        # Told a second time: its time is over.
        _signal_group(process, signal.SIGKILL)
        raise


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End what still runs of it."""
    if process.returncode is None:
        await _stop(process, GRACE_S)


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile
