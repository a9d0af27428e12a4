"""The finished records of archived items, against what the log says of them."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec import Raw, Struct, structs

from swarm.core.audit.findings import Findings
from swarm.messages import Finished, Item

_decode = msgspec.json.Decoder(Finished).decode


class ArchivedItem(Struct, gc=False, frozen=True):
    """An item that the log archived."""

    #: Sequence of the entry, and the log's time then.
    seq: int
    at: float
    #: Digest of the item as it was; 0: not known.
    content: int = 0


def content_of(item: Item) -> int:
    """A digest of all that stays of an item after its end.

    Dependents are left out: one may be told after the record was made.
    """
    story = item.story
    if story is not None and story.dependents:
        story = structs.replace(story, dependents={})
    text = repr(_plain(structs.replace(item, seq=0, story=story)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) or 1


def _plain(value: object) -> object:
    """`value` by what it says.  (Its JSON leaves some defaults out, and some not.)"""
    match value:
        case Struct():
            return [_plain(getattr(value, name)) for name in value.__struct_fields__]
        case Raw():
            return bytes(value)
        case dict():
            return sorted((key, _plain(inner)) for key, inner in value.items())
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value


def check_block(
    findings: Findings,
    shard: int,
    wanted: dict[int, ArchivedItem],
    records: list[bytes],
) -> set[int]:
    """Check the records of one block, oldest first; the numbers of `wanted` without any.

    The last record of an item counts.  Earlier ones say the same, unless the item was dead
    and was brought back.
    """
    found: dict[int, list[Item]] = {}
    for data in records:
        try:
            finished = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            findings.add("record", f"a finished record cannot be decoded: {error}", seq=0)
            continue
        if finished.shard != shard:
            what = f"a finished record of shard {finished.shard} among those of shard {shard}"
            findings.add("record", what, seq=0)
            continue
        for item in finished.items:
            if item.number in wanted:
                found.setdefault(item.number, []).append(item)
    for number, items in found.items():
        _check_item(findings, number, wanted[number], items)
    return wanted.keys() - found.keys()


def _check_item(findings: Findings, number: int, known: ArchivedItem, items: list[Item]) -> None:
    assert items, "one record at least"
    last = items[-1]
    if last.end is None:
        findings.add("record", "its record says that it has not ended", number, known.seq)
        return
    content = content_of(last)
    if known.content and content != known.content:
        what = f"its record ({last.end.status}) is not what the log had archived"
        findings.add("record", what, number, known.seq)
    for earlier in items[:-1]:
        died = earlier.end is not None and earlier.end.status == "dead"
        if not died and content_of(earlier) != content:
            findings.add("record", "two of its records say different things", number, known.seq)
            return
