"""How clients describe items: the fields of a `NewItem`, and some that stand for others.

``delay_s`` stands for ``not_before``, ``depends_on`` for ``dependencies``: ids, handles, or
positions of earlier items of the same call, whose ids are known once those are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from swarm.errors import Refusal
from swarm.messages import NewItem
from swarm.sdk.items import FIELDS


class HasId(Protocol):
    """A `Handle`, say."""

    work_item_id: str


#: What an item can depend on: an id, a handle, or the position of an earlier item of the call.
Ref = str | HasId | int

#: What `submit_many` takes: a `NewItem`, or a mapping with the same names, and those below,
#: whose payload is any JSON value.
Description = NewItem | Mapping[str, Any]

#: Names besides those of `NewItem`.
EXTRA: tuple[str, ...] = ("delay_s", "depends_on")


@dataclass(frozen=True, slots=True)
class Described:
    """An item that can be encoded once the ids of `earlier` are known."""

    fields: NewItem | dict[str, Any]
    #: Positions of items of the same call that it depends on.
    earlier: tuple[int, ...] = ()

    def with_ids(self, ids: Iterable[str]) -> NewItem | dict[str, Any]:
        """The description, with the ids of `earlier`."""
        if not self.earlier:
            return self.fields
        assert isinstance(self.fields, dict), "only mappings name positions"
        known = [*self.fields.get("dependencies", ()), *ids]
        return {**self.fields, "dependencies": list(dict.fromkeys(known))}


def read(description: object, position: int, now: float) -> Described:
    """The item at `position` of a call, made at `now` (seconds since 1970); else `Refusal`."""
    if isinstance(description, NewItem):
        return Described(description)
    if not isinstance(description, Mapping):
        raise Refusal(
            "bad_request",
            f"a work item is a NewItem or a mapping, not {type(description).__name__}",
        )
    unknown = [str(name) for name in description if name not in FIELDS + EXTRA]
    if unknown:
        # They are misspelt, or meant for another version.
        raise Refusal(
            "bad_request",
            f"unknown field {', '.join(unknown)}; allowed: {', '.join(FIELDS + EXTRA)}",
        )
    fields = dict(description)
    _set_times(fields, now)
    ids, earlier = _references(fields.pop("depends_on", ()), position)
    if ids:
        fields["dependencies"] = [*fields.get("dependencies", ()), *ids]
    return Described(fields, earlier)


def _set_times(fields: dict[str, Any], now: float) -> None:
    for name in ("not_before", "deadline"):
        moment = fields.get(name)
        if isinstance(moment, datetime):
            if moment.tzinfo is None:
                raise Refusal("bad_request", f"{name} is a datetime without a time zone; set one")
            fields[name] = moment.timestamp()
    delay_s = fields.pop("delay_s", 0) or 0
    if not isinstance(delay_s, int | float) or isinstance(delay_s, bool) or not delay_s >= 0:
        raise Refusal("bad_request", f"delay_s is {delay_s!r}; allowed: seconds, 0 or more")
    if delay_s and fields.get("not_before"):
        raise Refusal("bad_request", "delay_s and not_before exclude each other")
    if delay_s:
        fields["not_before"] = now + delay_s


def _references(named: object, position: int) -> tuple[list[str], tuple[int, ...]]:
    """(ids, positions) among what an item depends on."""
    if isinstance(named, str | bytes) or not isinstance(named, Iterable):
        raise Refusal("bad_request", f"depends_on is {named!r}; allowed: a list of ids or handles")
    ids: list[str] = []
    earlier: list[int] = []
    for one in named:
        name = getattr(one, "work_item_id", one)
        if isinstance(name, str):
            ids.append(name)
        elif isinstance(name, int) and not isinstance(name, bool):
            if not 0 <= name < position:
                raise Refusal(
                    "bad_request",
                    f"item {position} depends on item {name} of this call; allowed are items that "
                    "come earlier in it: 0, 1, …",
                )
            earlier.append(name)
        else:
            raise Refusal(
                "bad_request",
                f"depends_on has {one!r}; allowed: ids, handles, and positions of earlier items",
            )
    return list(dict.fromkeys(ids)), tuple(dict.fromkeys(earlier))
