"""NATS as text over a socket, by hand: standard library only, nothing of the swarm.

`RawNats` is what anybody writes in an hour in any language; `play` has several of them
act out the sessions that a document shows.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

DEADLINE_S = 20.0

#: Values of these keys differ from run to run, and what they are matters later on.
NAMES = {"coordinator", "incarnation", "owner", "session", "token", "version"}
#: Numbers under these keys differ from run to run.
NUMBERS = {"as_of", "claimed_at", "finished_at", "grace_s", "now", "submitted_at", "until"}


@dataclass
class RawMessage:
    """A message as it arrived."""

    subject: str
    sid: str
    reply: str
    data: bytes
    headers: bytes = b""

    @property
    def json(self) -> Any:
        """What it says."""
        return json.loads(self.data)


class RawNats:
    """One connection that speaks NATS's text protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = iter(range(1, 1_000_000))
        self.messages: asyncio.Queue[RawMessage] = asyncio.Queue()
        self.words: asyncio.Queue[str] = asyncio.Queue()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str) -> RawNats:
        """Open a socket to ``nats://host:port``; nothing has been said yet."""
        host, _, port = url.removeprefix("nats://").partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()

    # --- saying --------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """One line of the protocol."""
        self._writer.write(line.encode() + b"\r\n")

    def publish(self, subject: str, body: object, reply: str = "", raw: bytes = b"") -> None:
        """``PUB``: `body` as JSON, or `raw`."""
        data = raw or json.dumps(body).encode()
        line = " ".join(part for part in ("PUB", subject, reply, str(len(data))) if part)
        self._writer.write(line.encode() + b"\r\n" + data + b"\r\n")

    async def greet(self, name: str, *subjects: str) -> None:
        """``CONNECT``, ``SUB`` each subject, and wait until the server has seen it."""
        options = {"verbose": False, "headers": True, "no_responders": True, "name": name}
        self.say(f"CONNECT {json.dumps(options)}")
        for sid, subject in enumerate(subjects, start=1):
            self.say(f"SUB {subject} {sid}")
        await self.flush()

    async def flush(self) -> None:
        """``PING``, and wait for its ``PONG``."""
        self.say("PING")
        async with asyncio.timeout(DEADLINE_S):
            while await self.words.get() != "PONG":
                pass

    # --- hearing ---------------------------------------------------------------------------

    async def message(self) -> RawMessage:
        """The next message."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.messages.get()

    async def ask(self, sender: str, subject: str, body: object) -> Any:
        """Publish with an inbox of `sender`, and wait for what comes there."""
        reply = f"_INBOX.{sender}.{next(self._numbers)}"
        self.publish(subject, body, reply)
        return await self.answer(reply)

    async def answer(self, reply: str) -> Any:
        """What comes to this inbox next; other messages that come meanwhile are dropped."""
        while True:
            message = await self.message()
            if message.subject == reply:
                assert b" 503" not in message.headers, f"nobody serves what {reply} asked"
                return message.json

    async def _read(self) -> None:
        while line := await self._reader.readline():
            word, *parts = line.decode().rstrip("\r\n").split(" ")
            if word == "MSG":
                await self._read_message(parts, headers=False)
            elif word == "HMSG":
                await self._read_message(parts, headers=True)
            elif word == "PING":
                self.say("PONG")
            else:
                self.words.put_nowait(line.decode().strip())

    async def _read_message(self, parts: list[str], *, headers: bool) -> None:
        size = int(parts.pop())
        head = int(parts.pop()) if headers else 0
        reply = parts[2] if len(parts) > 2 else ""
        data = await self._reader.readexactly(size + 2)
        message = RawMessage(parts[0], parts[1], reply, data[head:-2], data[:head])
        self.messages.put_nowait(message)


# --- sessions as documents show them ---------------------------------------------------------


@dataclass
class Frame:
    """One line of the protocol, with the payload that follows it if one does."""

    who: str
    sent: bool
    line: str
    #: Lines of a message's headers, the empty one at their end included.
    headers: list[str] = field(default_factory=list)
    payload: str | None = None

    @property
    def words(self) -> list[str]:
        """The line, taken apart."""
        return self.line.split(" ")

    def size_is_right(self) -> bool:
        """Whether the numbers of bytes at the end of the line are those of what follows."""
        if self.payload is None:
            return True
        head = len("\r\n".join([*self.headers, ""]).encode()) if self.headers else 0
        sizes = [head + len(self.payload.encode())]
        if self.headers:
            sizes.insert(0, head)
        return [*map(str, sizes)] == self.words[-len(sizes) :]


def read_sessions(document: str) -> list[Frame]:
    """What blocks fenced by ``nats WHO`` show; ``> `` begins what is sent, ``< `` the rest."""
    frames: list[Frame] = []
    for who, block in re.findall(r"^```nats (\w+)\n(.*?)^```", document, re.MULTILINE | re.DOTALL):
        lines = iter(block.splitlines())
        for line in lines:
            mark = line[:2]
            assert mark in ("> ", "< "), f"no line of a session: {line!r}"
            frame = Frame(who, mark == "> ", line[2:])
            if frame.words[0] == "HMSG":
                while header := next(lines)[2:]:
                    frame.headers.append(header)
                frame.headers.append("")
            if frame.words[0] in ("PUB", "MSG", "HMSG"):
                frame.payload = next(lines)[2:]
            frames.append(frame)
    return frames


async def play(frames: list[Frame], url: str, passwords: dict[str, str]) -> dict[str, str]:
    """Act the sessions out against a real system; AssertionError where it does otherwise.

    Messages expected in a row may come in any order.  Returns what differs from run to run
    (values under `NAMES`), as it is shown and as it is: that is used in what is sent.
    `passwords`: of those who need one.
    """
    connections: dict[str, RawNats] = {}
    names: dict[str, str] = {}
    expected: list[Frame] = []
    try:
        for frame in frames:
            if frame.who not in connections:
                connections[frame.who] = await RawNats.connect(url)
            connection = connections[frame.who]
            if expected and (frame.sent or frame.who != expected[0].who):
                await _expect(connections[expected[0].who], expected, names)
            if frame.sent:
                _send(connection, frame, names, passwords)
            elif frame.payload is not None:
                expected.append(frame)
            else:
                await _hear(connection, frame)
        if expected:
            await _expect(connections[expected[0].who], expected, names)
        for who, connection in connections.items():
            assert connection.messages.empty(), f"{who} got more: {await connection.message()}"
            assert connection.words.empty(), f"{who} got more: {connection.words.get_nowait()}"
    finally:
        for connection in connections.values():
            await connection.close()
    return names


def _send(
    connection: RawNats, frame: Frame, names: dict[str, str], passwords: dict[str, str]
) -> None:
    line = _rename(frame.line, names)
    if frame.words[0] == "CONNECT" and frame.who in passwords:
        who = {"user": frame.who, "pass": passwords[frame.who]}
        line = f"CONNECT {json.dumps(json.loads(line.partition(' ')[2]) | who)}"
    if frame.payload is not None:
        payload = _rename(frame.payload, names)
        line = f"{line.rpartition(' ')[0]} {len(payload.encode())}\r\n{payload}"
    connection.say(line)


def _rename(text: str, names: dict[str, str]) -> str:
    if not names:
        return text
    # The longest first: a token contains its session.
    shown = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(shown, lambda match: names[match[0]], text)


async def _hear(connection: RawNats, frame: Frame) -> None:
    async with asyncio.timeout(DEADLINE_S):
        heard = await connection.words.get()
    assert heard.split(" ")[0] == frame.words[0], f"{frame.who} got {heard!r} for {frame.line!r}"


async def _expect(connection: RawNats, expected: list[Frame], names: dict[str, str]) -> None:
    """Hear what is `expected`, in any order, and empty it."""
    while expected:
        try:
            message = await connection.message()
        except TimeoutError:
            raise AssertionError(f"still waiting for {expected}") from None
        for frame in expected:
            if _matches(message, frame, names):
                expected.remove(frame)
                break
        else:
            raise AssertionError(f"got {message}, shown is {expected}")


def _matches(message: RawMessage, frame: Frame, names: dict[str, str]) -> bool:
    """Whether `message` is the one shown; if so, what it says is remembered in `names`."""
    assert frame.payload is not None, "a message has one"
    if _rename(frame.line, names).split(" ")[1:3] != [message.subject, message.sid]:
        return False
    keys = [header.partition(":")[0] for header in frame.headers]
    if keys != [header.partition(":")[0] for header in message.headers.decode().splitlines()]:
        return False
    learned: dict[str, str] = {}
    if not _alike(json.loads(frame.payload), message.json, "", names, learned):
        return False
    names |= learned
    return True


def _alike(shown: Any, real: Any, key: str, names: dict[str, str], learned: dict[str, str]) -> bool:
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(
            _alike(shown[name], real[name], name, names, learned) for name in shown
        )
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(
            _alike(one, other, key, names, learned) for one, other in zip(shown, real, strict=True)
        )
    if key in NAMES and isinstance(real, str):
        learned[shown] = real
        return names.get(shown, real) == real
    if key in NUMBERS:
        return isinstance(shown, int | float) and isinstance(real, int | float)
    return bool(shown == real)
