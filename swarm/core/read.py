"""What readers are shown of a shard."""

from __future__ import annotations

from swarm.core.checks import stored_bytes
from swarm.core.shard import Shard
from swarm.core.work import view, weight
from swarm.errors import BadInput, NotInMemory, Refusal
from swarm.messages import STATUSES, Item, ItemPage, List, ShardStats
from swarm.subjects import parse_item_id

#: What an item takes in a page besides its own texts.
_ITEM_BYTES = 400
#: Items looked at for one page: whoever owns the shard does nothing else meanwhile.
LOOKED_AT_MAX = 10_000


def find(shard: Shard, work_item_id: str, number: int = 0) -> Item:
    """This item of this shard; refuses an unknown one, `NotInMemory` for an archived one.

    `number`: what the id says, if somebody has read it and found it to name this shard.
    """
    found = shard.items.get(number or _number(shard, work_item_id))
    if found is None:
        found = _not_in_items(shard, work_item_id)
    return found


def _number(shard: Shard, work_item_id: str) -> int:
    """The number in an item's id; refuses what is none, or one of another shard."""
    try:
        number_of_shard, number = parse_item_id(work_item_id)
    except BadInput as error:
        raise Refusal("bad_request", str(error)) from error
    if number_of_shard != shard.number:
        raise Refusal(
            "bad_request",
            f"work item {work_item_id} is in shard {number_of_shard}, this is shard {shard.number}",
        )
    return number


def _not_in_items(shard: Shard, work_item_id: str) -> Item:
    number = _number(shard, work_item_id)
    found = shard.thawed.get(number)
    if found is not None:
        return found
    if 0 < number < shard.next_number:
        raise NotInMemory(number)
    raise Refusal("unknown_item", f"there is no work item {work_item_id}")


def check_query(query: List) -> None:
    """Refuse a query for what there is not."""
    if query.status and query.status not in STATUSES:
        raise Refusal(
            "bad_request", f"unknown status {query.status!r}; one of {', '.join(STATUSES)}"
        )


def page(shard: Shard, query: List, bytes_max: int) -> ItemPage:
    """The items after `query.after`, oldest first, at most `bytes_max` bytes of them.

    One item is shown however large it is.  A page may be empty and yet not the last.
    """
    assert bytes_max > 0, "an empty page would never end"
    found = ItemPage([], archived=sum(shard.archived.values()))
    size = 0
    first = max(query.after, 0) + 1
    for number in range(first, shard.next_number):
        if number - first >= LOOKED_AT_MAX:
            found.after = number - 1
            break
        candidate = shard.items.get(number)
        if candidate is None:
            continue
        if query.status and candidate.status != query.status:
            continue
        if query.work_type and candidate.work_type != query.work_type:
            continue
        size += _shown_bytes(candidate)
        if len(found.items) >= query.limit or (found.items and size > bytes_max):
            found.after = number - 1
            break
        found.items.append(view(candidate, shard.number, 0))
    return found


def _shown_bytes(candidate: Item) -> int:
    """At most what the item takes in a page."""
    size = _ITEM_BYTES + weight(candidate)
    hold, end = candidate.hold, candidate.end
    if end is not None:
        hold = end.hold
    if hold is not None:
        size += stored_bytes(hold.agent) + stored_bytes(hold.note)
    if candidate.story is not None:
        size += sum(200 + stored_bytes(one.error) for one in candidate.story.history)
    if candidate.pause is not None:
        size += stored_bytes(candidate.pause.what)
    return size


def stats(shard: Shard) -> ShardStats:
    """Counts of the shard, and what the latest walk over its items has found."""
    return ShardStats(
        shard=shard.number,
        coordinator=shard.coordinator,
        epoch=0,
        as_of=0,
        counts=shard.counts(),
        ready={work_type: count for work_type, count in shard.lanes.ready.items() if count},
        submitted=shard.submitted,
        conservation=shard.walked.off,
        walked_at=shard.walked.seq,
        foreign=0,
        archived=sum(shard.archived.values()),
        live_bytes=shard.live_bytes,
    )
