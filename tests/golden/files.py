"""Golden files: how they are written, read and folded.

- ``messages-vN.jsonl``: one message a line: its name, its class, its form, its bytes;
- ``log-vN.jsonl``: one log entry a line: sequence, server time, the bytes as text;
- ``log-vN.state.json``: what that log says, folded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct, structs

from swarm.bus.base import Entry
from swarm.core import read
from swarm.core.envelope import LogPosition, decode_entry
from swarm.core.shard import Shard, ShardRules
from swarm.core.work import view
from swarm.messages import Accepted, Hold, Taken
from swarm.subjects import item_id

HERE = Path(__file__).parent
LOG = "swarmlog.0"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: What the state file of version 1 tells, and what there was to tell then.
STATE_OF_1 = _names("links position coordinator stats items holds answers keys claim_order")
POSITION_OF_1 = _names("log at last incarnation epoch owner batch now map_version foreign")
STATS_OF_1 = _names(
    "shard coordinator epoch as_of counts ready submitted conservation foreign refused"
)
STATUSES_OF_1 = _names("queued claimed completed dead")
ITEM_OF_1 = _names(
    "work_item_id work_type status priority submitted_at description team labels story_points "
    "payload idempotency_key trace progress note attempt agent_id claimed_at finished_at result "
    "error as_of"
)


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
    """What a log says, as plain JSON: all that another owner would go on with.

    It may begin in the middle, where a mark allows it.
    """
    first = entries[0].seq
    shard, position = Shard(0, ShardRules(), first), LogPosition.before(LOG, first)
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
    assert shard.complete, "all that was before is known again"
    shard.validate()
    # Answers are asked for in the order in which they were given, the forgotten ones, too.
    asked = [id_ for id_ in remembered if id_] + sorted(shard.commands)
    stats = read.stats(shard)
    state = {
        "links": links,
        "position": position,
        "coordinator": shard.coordinator,
        "stats": stats,
        "conservation": shard.conservation(),
        "items": [view(item, 0, position.at) for _, item in sorted(shard.items.items())],
        "stored": [structs.replace(item, seq=0) for _, item in sorted(shard.items.items())],
        "holds": {item_id(0, number): hold for number, hold in sorted(shard.holds())},
        "answers": {id_: shard.commands.get(id_) for id_ in dict.fromkeys(asked)},
        "keys": {"words/7": shard.keys.get("words/7")},
        "ended": shard.ended,
        "archived": shard.archived,
        "blocked": sorted(shard.blocked),
        "untold": sorted(shard.untold),
        "needs": shard.needs,
        "horizon": shard.commands.horizon,
        "claim_order": _claim_order(shard),
    }
    return msgspec.json.decode(msgspec.json.encode(state))


def as_of_version(state: Any, version: int) -> Any:
    """What `fold` says today, in the words of the state file of this version.

    Fields that have been added since are left out.  They must say nothing new of what an
    old log says: a status that did not exist then, for one.
    """
    if version >= 2:
        return state
    told = _only(state, STATE_OF_1)
    told["position"] = _only(state["position"], POSITION_OF_1)
    told["stats"] = _only(state["stats"], STATS_OF_1)
    counts = state["stats"]["counts"]
    told["stats"]["counts"] = _only(counts, STATUSES_OF_1)
    assert sum(counts.values()) == sum(told["stats"]["counts"].values()), "statuses of then"
    told["items"] = [_only(item, ITEM_OF_1) for item in state["items"]]
    told["answers"] = {id_: _answer_of_1(known) for id_, known in state["answers"].items()}
    told["keys"] = {key: known and known[0] for key, known in state["keys"].items()}
    return told


def _only(value: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: said for name, said in value.items() if name in names}


def _answer_of_1(known: list[Any] | None) -> Any:
    """Answers were objects, and said more of a submit than they must."""
    if known is None:
        return None
    answer = msgspec.convert(known, Accepted | Taken)
    if isinstance(answer, Accepted):
        return {"numbers": sorted(map(list, answer.numbers))}
    return structs.asdict(answer)


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
