"""Golden files: how they are written, read and folded.

- ``messages-vN.jsonl``: one message a line: its name, its class, its form, its bytes;
- ``log-vN.jsonl``: one log entry a line: sequence, server time, the bytes as text;
- ``log-vN.state.json``: what that log says, folded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from swarm.bus.base import Entry
from swarm.core import read
from swarm.core.envelope import LogPosition, decode_entry
from swarm.core.shard import Shard, ShardRules
from swarm.core.work import view
from swarm.subjects import item_id

HERE = Path(__file__).parent
LOG = "swarmlog.0"


class GoldenMessage(Struct):
    """One line of ``messages-vN.jsonl``."""

    name: str
    #: Name of the class.
    message: str
    #: ``minimal``: required fields only; ``full``: every field, none with its default;
    #: ``spelled``: as minimal, with every default written out.
    form: Literal["minimal", "full", "spelled"]
    #: As it travels.
    data: Raw


class GoldenEntry(Struct):
    """One line of ``log-vN.jsonl``."""

    seq: int
    time: float
    data: str


def versions() -> list[int]:
    """Versions of which there are files."""
    names = (path.name for path in HERE.glob("messages-v*.jsonl"))
    return sorted(int(name.removeprefix("messages-v").removesuffix(".jsonl")) for name in names)


def read_messages(version: int) -> list[GoldenMessage]:
    """The messages of this version."""
    data = (HERE / f"messages-v{version}.jsonl").read_bytes()
    return msgspec.json.Decoder(GoldenMessage).decode_lines(data)


def read_log(version: int) -> list[Entry]:
    """The log of this version."""
    data = (HERE / f"log-v{version}.jsonl").read_bytes()
    lines = msgspec.json.Decoder(GoldenEntry).decode_lines(data)
    return [Entry(line.seq, line.data.encode(), line.time) for line in lines]


def read_state(version: int) -> Any:
    """What the log of this version says."""
    return msgspec.json.decode((HERE / f"log-v{version}.state.json").read_bytes())


def fold(entries: list[Entry]) -> Any:
    """What a log says, as plain JSON: all that another owner would go on with."""
    shard, position = Shard(0, ShardRules()), LogPosition(LOG)
    links: list[str] = []
    remembered: dict[str, None] = {}
    for stored in entries:
        shard.seq = stored.seq
        entry = decode_entry(LOG, stored.seq, stored.data)
        link = position.advance(stored.seq, entry)
        links.append(link.value)
        if link.value != "ours":
            continue
        assert entry is not None, "a foreign entry is not ours"
        for event in entry.events:
            shard.apply(event, entry.now, entry.owner)
            remembered[getattr(event, "command_id", "")] = None
    shard.validate()
    answers = {id_: shard.commands.get(id_) for id_ in remembered if id_}
    state = {
        "links": links,
        "position": position,
        "coordinator": shard.coordinator,
        "stats": read.stats(shard),
        "items": [view(item, 0, position.at) for item in shard.items.values()],
        "holds": {item_id(0, number): hold for number, hold in shard.holds()},
        "answers": answers,
        "keys": {"words/7": shard.keys.get("words/7")},
        "claim_order": _claim_order(shard),
    }
    return msgspec.json.decode(msgspec.json.encode(state))


def _claim_order(shard: Shard) -> dict[str, list[str]]:
    """By work type, the ready items in the order in which they will be claimed."""
    order: dict[str, list[str]] = {}
    for work_type in shard.lanes.ready:
        order[work_type] = []
        while (number := shard.lanes.best([work_type])) is not None:
            order[work_type].append(item_id(0, number))
            # Held, so that it is not ready any more.
            item = shard.items[number]
            item.hold = Hold("", "", 0, "", 0.0, 0.0)
            shard.lanes.remove(item)
    return order
