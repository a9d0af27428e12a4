"""Every subject, in one place (the table in docs/protocol.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from swarm.errors import BadInput
from swarm.messages import TOKEN_PATTERN

_TOKEN = re.compile(TOKEN_PATTERN)

#: More digits than any shard and any number of a swarm has.
ITEM_ID_LENGTH_MAX = 30

#: Stands for the work type in the subject of a batch with several types.
MIXED = "_"


def check_token(what: str, value: str) -> str:
    """`value`, if it can be one subject token; else `BadInput` that names `what`."""
    if _TOKEN.match(value):
        return value
    raise BadInput(
        f"{what} {value!r} cannot be used: 1 to 64 letters, digits, '_' or '-', "
        "beginning with a letter or digit"
    )


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of the swarm with this prefix."""

    prefix: str = "swarm"

    def submit(self, work_type: str, sender: str) -> str:
        return f"{self.prefix}.submit.{work_type}.{sender}"

    def attach(self, agent: str) -> str:
        return f"{self.prefix}.attach.{agent}"

    def describe(self, sender: str) -> str:
        return f"{self.prefix}.describe.{sender}"

    def routes(self, sender: str) -> str:
        return f"{self.prefix}.routes.{sender}"

    def coordinator(self, coordinator: str, verb: str, sender: str) -> str:
        return f"{self.prefix}.coordinator.{coordinator}.{verb}.{sender}"

    def shard(self, shard: int | str, verb: str, sender: str) -> str:
        return f"{self.prefix}.shard.{shard}.{verb}.{sender}"

    def log(self, shard: int) -> str:
        return f"{self.prefix}log.{shard}"

    def restoring(self, shard: int) -> str:
        """By which entries get into a log that is being restored."""
        return f"{self.prefix}restore.{shard}"

    def cluster_log(self) -> str:
        return f"{self.prefix}log.cluster"

    def control(self, verb: str, sender: str) -> str:
        return f"{self.prefix}.control.{verb}.{sender}"

    def records(self, shard: int) -> str:
        """Name of the shard's finished records."""
        return f"{self.prefix}done.{shard}"

    def agent_work(self, agent: str, session: str) -> str:
        return f"{self.prefix}.agent.{agent}.{session}.work"

    def agent_control(self, agent: str, session: str) -> str:
        return f"{self.prefix}.agent.{agent}.{session}.control"

    def heartbeat(self, agent: str) -> str:
        return f"{self.prefix}.heartbeat.{agent}"

    def beat(self, coordinator: str) -> str:
        return f"{self.prefix}.beat.{coordinator}"

    def attached(self, agent: str) -> str:
        return f"{self.prefix}.attached.{agent}"

    def gone(self, coordinator: str) -> str:
        return f"{self.prefix}.gone.{coordinator}"


def sender_of(subject: str) -> str:
    """The last token of a request subject: who sent it."""
    return subject.rsplit(".", 1)[1]


def verb_of(subject: str) -> str:
    """The verb of ``<p>.shard.<n>.<verb>.<sender>`` or ``<p>.coordinator.<id>.<verb>.…``."""
    return subject.rsplit(".", 2)[1]


def work_type_of(subject: str) -> str:
    """The work type of ``<p>.submit.<work_type>.<sender>``."""
    return subject.rsplit(".", 2)[1]


def reply_allowed(reply: str, sender: str) -> bool:
    """Whether `reply` is an inbox of `sender`.

    Anything else must not be answered: a service can be made to write its answer into
    a log by naming that as the reply subject.
    """
    inbox = f"_INBOX.{sender}."
    wild = "*" in reply or ">" in reply
    return reply.startswith(inbox) and len(reply) > len(inbox) and not wild


def item_id(shard: int, number: int) -> str:
    """The id of item `number` of `shard`: an id carries its shard."""
    return f"{shard}-{number}"


def parse_item_id(work_item_id: str) -> tuple[int, int]:
    """(shard, number) of an id; `BadInput` for anything that is none."""
    shard, _, number = work_item_id.partition("-")
    # isdecimal() alone takes other scripts' digits, too; a leading zero would let one
    # item go by two names.
    if (
        number.isdecimal()
        and shard.isdecimal()
        and work_item_id.isascii()
        and number[0] != "0"
        and (shard[0] != "0" or shard == "0")
        and len(work_item_id) <= ITEM_ID_LENGTH_MAX
    ):
        return int(shard), int(number)
    raise BadInput(f"{work_item_id[:80]!r} is no work item id; one looks like 3-17 (shard-number)")


def shard_of_id(work_item_id: str) -> int:
    """The shard that an id names, -1 for anything that is no id."""
    try:
        return parse_item_id(work_item_id)[0]
    except BadInput:
        return -1
