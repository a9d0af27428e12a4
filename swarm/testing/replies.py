"""What clients were told, and whether it fits together: nothing stale, nothing contradictory.

`ReplyLog` records every request of a client and every reply that reaches it, late and
double ones included, which an SDK would drop.  `check_replies` asks no server and reads no
log: it holds the replies against each other, in the order in which they were seen.

- *Real time*: a reading shows all that any reply had shown before it was asked for.  An
  owner that was deposed and does not know it would break this first.
- *One answer*: whoever asks again with the same command id is told the same.
- *One holder*: a token goes to one sender, a fence to one token, an item is completed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from swarm.bus.base import Bus, Handler, Message, Subscription

#: An ended item stays as it is.  (A dead one can be brought back.)
FINAL = ("completed", "cancelled")


class Told(Struct):
    """A request as it was sent (`reply` false), or one reply to it."""

    at: float
    #: Where answers are to go: ties replies to their request.
    inbox: str
    reply: bool
    subject: str
    data: bytes


class ReplyLog:
    """A bus that records; give it to the SDK in place of the one that it wraps.

    `clock`: any that never goes back, the same for all logs that are checked together.
    """

    def __init__(self, bus: Bus, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._clock = clock
        self.told: list[Told] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the wrapped bus's."""
        return getattr(self._bus, name)

    async def publish(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """As `Bus.publish`."""
        if reply:
            self.told.append(Told(self._clock(), reply, False, subject, data))
        await self._bus.publish(subject, data, reply, headers)

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """As `Bus.subscribe`."""

        def hear(message: Message) -> None:
            if message.subject.startswith("_INBOX.") and message.data:
                inbox = message.subject
                self.told.append(Told(self._clock(), inbox, True, inbox, message.data))
            handler(message)

        return await self._bus.subscribe(subject, hear, queue)


class _Asked(Struct):
    sender: str
    verb: str
    shard: str
    body: dict[str, Any]
    #: What had been shown when it was sent: the shard's latest sequence, the item's end.
    sequence: int = 0
    final: str = ""
    known: bool = False


class _Checker:
    """Goes through what was told, in order."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.readings = 0
        self._asked: dict[str, _Asked] = {}
        self._sequences: dict[str, int] = {}
        self._items: dict[str, None] = {}
        self._finals: dict[str, str] = {}
        self._completed: dict[str, str] = {}
        self._fences: dict[tuple[str, str], str] = {}
        self._holders: dict[tuple[str, str], str] = {}
        #: What was answered to a command: by (command id, index in its batch).
        self._answers: dict[tuple[str, int], str] = {}

    def take(self, told: Told) -> None:
        if not told.reply:
            self._ask(told)
        elif told.inbox in self._asked:
            self._answer(self._asked[told.inbox], msgspec.json.decode(told.data))

    def _ask(self, told: Told) -> None:
        _, kind, *rest = told.subject.split(".")
        if kind not in ("shard", "submit"):
            return
        shard, verb = (rest[0], rest[1]) if kind == "shard" else ("", "submit")
        body = msgspec.json.decode(told.data) if told.data else {}
        item = body.get("work_item_id", "")
        self._asked[told.inbox] = _Asked(
            told.subject.rpartition(".")[2],
            verb,
            shard,
            body,
            self._sequences.get(shard, 0),
            self._finals.get(item, ""),
            item in self._items,
        )

    def _answer(self, asked: _Asked, body: dict[str, Any]) -> None:
        if "as_of" in body:
            self._reading(asked, body)
        if "error" in body:
            self._refusal(asked, body["error"])
        elif asked.verb == "submit":
            self._submitted(asked, body)
        elif asked.verb == "claim":
            self._assigned(asked, body)
        elif "command_id" in asked.body and "status" in body:
            self._acknowledged(asked, body)

    def _reading(self, asked: _Asked, body: dict[str, Any]) -> None:
        self.readings += 1
        if body["as_of"] < asked.sequence:
            self._find(
                f"stale: {asked.verb} of shard {asked.shard} was answered as of {body['as_of']}, "
                f"but {asked.sequence} had been shown before it was asked for"
            )
        self._sequences[asked.shard] = max(self._sequences.get(asked.shard, 0), body["as_of"])
        if asked.verb == "get":
            self._seen(asked, body["work_item_id"], body["status"])

    def _seen(self, asked: _Asked, item: str, status: str) -> None:
        if asked.final and status != asked.final:
            self._find(f"{item} was {asked.final} before it was asked for, and then {status}")
        if status in FINAL:
            other = self._finals.setdefault(item, status)
            if other != status:
                self._find(f"{item} is {other} and {status}")

    def _refusal(self, asked: _Asked, error: dict[str, Any]) -> None:
        if error.get("retry"):
            return
        item = asked.body.get("work_item_id", "")
        if error["code"] == "unknown_item" and asked.known:
            self._find(f"{item} was accepted before it was asked for, and is not known")
        command = asked.body.get("command_id", "")
        if command and asked.verb != "submit" and error["code"] != "no_work":
            self._same(command, 0, "refused: " + error["code"], asked.verb)

    def _submitted(self, asked: _Asked, body: dict[str, Any]) -> None:
        command = asked.body.get("command_id", "")
        for result in body.get("results", []):
            if "work_item_id" in result:
                self._items[result["work_item_id"]] = None
                self._same(command, result["index"], result["work_item_id"], "submit")

    def _assigned(self, asked: _Asked, body: dict[str, Any]) -> None:
        item, token = body["work_item_id"], body["token"]
        self._same(asked.body["command_id"], 0, f"{item} {token}", "claim")
        holder = self._holders.setdefault((item, token), asked.sender)
        if holder != asked.sender:
            self._find(f"{item} was given to {holder} and to {asked.sender} under one token")
        fence = token.partition(".")[0]
        other = self._fences.setdefault((item, fence), token)
        if other != token:
            self._find(f"{item} was claimed under {other} and under {token}")

    def _acknowledged(self, asked: _Asked, body: dict[str, Any]) -> None:
        item, status = asked.body["work_item_id"], body["status"]
        self._same(asked.body["command_id"], 0, status, asked.verb)
        if status != "completed":
            return
        self._finals[item] = "completed"
        token = self._completed.setdefault(item, asked.body["token"])
        if token != asked.body["token"]:
            self._find(f"{item} was completed under {token} and under {asked.body['token']}")

    def _same(self, command: str, index: int, answer: str, verb: str) -> None:
        known = self._answers.setdefault((command, index), answer)
        if known != answer:
            self._find(f"{verb} {command} was answered {known!r}, and again {answer!r}")

    def _find(self, what: str) -> None:
        self.findings.append(what)


def check_replies(*logs: ReplyLog) -> list[str]:
    """What does not fit together, in words; [] when all is well."""
    checker = _Checker()
    for told in _in_order(logs):
        checker.take(told)
    return checker.findings


def readings(*logs: ReplyLog) -> int:
    """How many replies said as of when they are true: what a check has to go by."""
    checker = _Checker()
    for told in _in_order(logs):
        checker.take(told)
    return checker.readings


def _in_order(logs: tuple[ReplyLog, ...]) -> Iterator[Told]:
    return iter(sorted((told for log in logs for told in log.told), key=lambda told: told.at))
