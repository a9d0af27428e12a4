"""Work done by any program: the item goes in as JSON, lines of its output come back.

stdin: the item.  Environment: its fields in ``SWARM_*``.  stdout: a line ``progress 40
half way`` is reported at once; the last line that is JSON is the result.  The exit code
decides; the end of stderr is the failure's message.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable
from typing import IO, Any, Protocol

import msgspec

#: Longest line that is looked at; the rest of a longer one is dropped.
LINE_BYTES_MAX = 1024 * 1024
#: Of stderr, the last of this makes the failure's message.
ERROR_BYTES_MAX = 2000
#: A single environment variable can hold 128 KiB on Linux; text beyond this is cut.
ENV_BYTES_MAX = 32 * 1024
#: After SIGTERM, a program has this long to end before SIGKILL.
GRACE_S = 5.0
#: Output is read on for this long after the program ended: what it left in the background
#: may hold the pipe open for ever.
LINGER_S = 1.0


class ProgramFailed(Exception):
    """The program ended with another exit code than 0."""


class Job(Protocol):
    """What of a handler's context is used here."""

    @property
    def item(self) -> Any:
        """The submitted `NewItem`."""
        ...

    @property
    def work_item_id(self) -> str: ...

    @property
    def token(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    def progress_sync(self, percent: float, note: str = "") -> None:
        """Report how far it is, at once; raises when the work is to stop."""
        ...


class Program:
    """A shell command as a handler."""

    def __init__(self, command: str, agent_id: str) -> None:
        self._command = command
        self._agent_id = agent_id

    async def handle(self, job: Job) -> msgspec.Raw | None:
        """Run it for this item; its result.  Cancelled, it ends the whole process group."""
        output, errors = _Output(job.progress_sync), bytearray()
        with tempfile.TemporaryFile() as stdin:
            stdin.write(describe(job))
            stdin.seek(0)
            out, out_end = await _pipe()
            err, err_end = await _pipe()
            try:
                process = await self._start(job, stdin, out_end, err_end)
            finally:
                os.close(out_end)
                os.close(err_end)
        try:
            async with asyncio.TaskGroup() as tasks:
                readers = [
                    tasks.create_task(_read(out, output.feed)),
                    tasks.create_task(_read(err, lambda data: _keep_tail(errors, data))),
                ]
                code = await process.wait()
                await asyncio.wait(readers, timeout=LINGER_S)
                for reader in readers:
                    reader.cancel()
        except BaseExceptionGroup as group:
            # A progress report was refused: the lease is lost, the program must stop.
            raise group.exceptions[0] from None
        finally:
            out.close()
            err.close()
            await _end_group(process)
        output.end()
        if code != 0:
            raise ProgramFailed(_how(code, errors))
        return output.result

    async def _start(
        self, job: Job, stdin: IO[bytes], out_end: int, err_end: int
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            self._command,
            stdin=stdin,
            stdout=out_end,
            stderr=err_end,
            env={**os.environ, **environment(job, self._agent_id)},
            # A group of its own, so that all of it can be stopped.
            start_new_session=True,
        )


def describe(job: Job) -> bytes:
    """The item as the program reads it from stdin."""
    item = job.item
    return msgspec.json.encode(
        {
            "work_item_id": job.work_item_id,
            "work_type": item.work_type,
            "description": item.description,
            "priority": item.priority,
            "team": item.team,
            "labels": item.labels,
            "story_points": item.story_points,
            "payload": item.payload,
            "attempt": job.attempt,
            "token": job.token,
        }
    )


def environment(job: Job, agent_id: str) -> dict[str, str]:
    """The item's fields as environment variables (its payload is on stdin only)."""
    item = job.item
    fields = {
        "WORK_ITEM_ID": job.work_item_id,
        "WORK_TYPE": item.work_type,
        "DESCRIPTION": item.description,
        "PRIORITY": item.priority,
        "TEAM": item.team,
        "LABELS": msgspec.json.encode(item.labels).decode(),
        "STORY_POINTS": "" if item.story_points is None else str(item.story_points),
        "ATTEMPT": str(job.attempt),
        "TOKEN": job.token,
        "AGENT_ID": agent_id,
        "TRACE": item.trace,
    }
    return {f"SWARM_{name}": _env_text(value) for name, value in fields.items()}


def _env_text(text: str) -> str:
    """`text` as an environment variable can hold it: no NUL, not too long."""
    kept = text.replace("\0", "").encode(errors="replace")[:ENV_BYTES_MAX]
    return kept.decode(errors="ignore")


# --- output ------------------------------------------------------------------------------


def parse_progress(line: str) -> tuple[float, str] | None:
    """(percent, note) of a line ``progress 40 half way``; None for any other."""
    word, _, rest = line.partition(" ")
    if word != "progress":
        return None
    number, _, text = rest.strip().partition(" ")
    try:
        percent = float(number.removesuffix("%"))
    except ValueError:
        return None
    return (percent, text.strip()) if 0 <= percent <= 100 else None


class _Output:
    """Takes a program's stdout apart into lines."""

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._line = bytearray()
        #: The last line that is JSON.
        self.result: msgspec.Raw | None = None

    def feed(self, data: bytes) -> None:
        """More output has come."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            self.end()
        self._add(rest)

    def end(self) -> None:
        """The line ends here."""
        line, self._line = bytes(self._line).strip(), bytearray()
        if not line:
            return
        progress = parse_progress(line.decode(errors="replace"))
        if progress is not None:
            self._report(*progress)
        elif _is_json(line):
            self.result = msgspec.Raw(line)

    def _add(self, part: bytes) -> None:
        room = LINE_BYTES_MAX - len(self._line)
        self._line += part[: max(room, 0)]


def _is_json(line: bytes) -> bool:
    # The first byte settles it for most lines that are none.
    if line[0] not in b'{["-0123456789tfn':
        return False
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


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


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End what still runs of it: SIGTERM, and SIGKILL for what does not listen."""
    if process.returncode is not None:
        return
    _signal_group(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        _signal_group(process, signal.SIGKILL)
        await process.wait()
    except asyncio.CancelledError:
        _signal_group(process, signal.SIGKILL)
        raise


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile
