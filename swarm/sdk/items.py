"""Work items on their way in and out of Python: checked, encoded, put into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Raw

from swarm.core.admission import check_item
from swarm.core.headers import Common
from swarm.errors import BadInput, Refusal
from swarm.messages import NULL, Assignment, Dependency, NewItem
from swarm.subjects import MIXED, check_token

_encode = msgspec.json.Encoder().encode
_item_decoder = msgspec.json.Decoder(NewItem)

#: What a work item may be described with.
FIELDS: tuple[str, ...] = NewItem.__struct_fields__

#: Bytes of a `Submit` besides its items.
SUBMIT_BYTES = 200


def to_json(what: str, value: object) -> Raw:
    """`value` as JSON; `Refusal` naming `what` if it cannot be."""
    if isinstance(value, Raw):
        return value
    if value is None:
        # The very default of the messages' fields, so that it is left out.
        return NULL
    try:
        return Raw(_encode(value))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Refusal(
            "bad_request",
            f"{what} cannot be written as JSON: {error}; use dicts, lists, strings, numbers, "
            "booleans and None",
        ) from error


def from_json(data: Raw) -> Any:
    """The value that `data` encodes."""
    return None if data == NULL else msgspec.json.decode(data)


def check_percent(percent: float) -> float:
    """`percent`, if it is 0 to 100; else `Refusal`."""
    if 0 <= percent <= 100:
        return float(percent)
    raise Refusal("bad_request", f"percent is {percent}; allowed: 0 to 100")


def check_name(what: str, name: str) -> str:
    """`name`, if it can be part of a subject; else `Refusal`."""
    try:
        return check_token(what, name)
    except BadInput as error:
        raise Refusal("bad_request", str(error)) from error


def encode_item(fields: NewItem | dict[str, Any], item_bytes_max: int) -> tuple[NewItem, Raw]:
    """The item and its encoding, checked as a coordinator would; else `Refusal`."""
    item, canonical = check_item(to_json("the work item", fields), item_bytes_max)
    return item, Raw(canonical)


@dataclass(slots=True)
class Batch:
    """Encoded items that travel in one `Submit`, and where each stands among all."""

    items: list[Raw] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    work_types: dict[str, None] = field(default_factory=dict)
    size: int = SUBMIT_BYTES
    common: Common | None = None

    def add(self, position: int, item: NewItem, encoded: Raw) -> None:
        self.items.append(encoded)
        self.positions.append(position)
        self.work_types[item.work_type] = None
        self.size += _bytes_in_batch(encoded)
        if self.common is None:
            self.common = Common(item)
        else:
            self.common.add(item)

    @property
    def work_type(self) -> str:
        """The type of all items, or what stands for several."""
        return next(iter(self.work_types)) if len(self.work_types) == 1 else MIXED

    def headers(self) -> dict[str, str] | None:
        """What routers may route the batch by, besides its type."""
        return None if self.common is None else self.common.headers()


def batches(
    items: Iterable[tuple[int, NewItem | dict[str, Any]]],
    *,
    count_max: int,
    bytes_max: int,
    item_bytes_max: int,
    refused: dict[int, Refusal],
) -> Iterator[Batch]:
    """`items`, each with its position, in batches of at most `count_max` and `bytes_max` bytes.

    What is wrong with an item is put into `refused` under its position; it is in no batch.
    """
    batch = Batch()
    for position, fields in items:
        try:
            item, encoded = encode_item(fields, item_bytes_max)
        except Refusal as refusal:
            refused[position] = refusal
            continue
        full = len(batch.items) >= count_max or batch.size + _bytes_in_batch(encoded) > bytes_max
        if full and batch.items:
            yield batch
            batch = Batch()
        batch.add(position, item, encoded)
    if batch.items:
        yield batch


def _bytes_in_batch(item: Raw) -> int:
    return len(memoryview(item)) + 1


@dataclass(frozen=True)
class DependencyEnd:
    """How an item ended that this one depends on."""

    #: ``completed``, ``dead`` or ``cancelled``; empty if it has not ended (then the item was
    #: queued by an operator all the same).
    status: str
    #: What its agent returned; None without one, and if it is `omitted`.
    result: Any = None
    #: The result is too large to be handed on: `Context.result_of` reads it.
    omitted: bool = False


@dataclass(frozen=True)
class ClaimedItem:
    """A work item in the hands of an agent: what was submitted, and under which claim."""

    work_item_id: str
    #: Every command about the item must show it.
    token: str
    #: Counts claims that were charged, from 1.
    attempt: int
    #: How long the claim holds without a heartbeat.
    lease_s: float
    #: As submitted; its `payload` is encoded, see `payload` here.
    item: NewItem
    #: Bytes of the item as stored.
    item_bytes: int
    #: What the item's last holder left, encoded; null if it left nothing.
    checkpoint: Raw = field(default_factory=lambda: NULL)
    #: Answer to the latest wait, encoded, and who gave it; empty: nobody, the wait expired.
    answer: Raw = field(default_factory=lambda: NULL)
    answered_by: str = ""
    #: How often the item has waited.
    waits: int = 0
    #: How its dependencies ended, by id.
    depends: Mapping[str, Dependency] = field(default_factory=dict)

    @classmethod
    def of(cls, assignment: Assignment) -> ClaimedItem:
        """What an assignment holds; `msgspec.ValidationError` if it cannot be read."""
        return cls(
            assignment.work_item_id,
            assignment.token,
            assignment.attempt,
            assignment.lease_s,
            _item_decoder.decode(assignment.item),
            len(memoryview(assignment.item)),
            assignment.checkpoint,
            assignment.answer,
            assignment.answered_by,
            assignment.waits,
            assignment.depends,
        )

    @cached_property
    def payload(self) -> Any:
        """The submitted payload, decoded; None without one."""
        return from_json(self.item.payload)

    @cached_property
    def dependencies(self) -> dict[str, DependencyEnd]:
        """How its dependencies ended, by id, their results decoded."""
        return {
            name: DependencyEnd(known.status, from_json(known.result), known.omitted)
            for name, known in self.depends.items()
        }
