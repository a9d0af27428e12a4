"""What a submission may be routed by, as it travels: its type in the subject, the rest in headers.

A router reads these and nothing else; the coordinator compares them with the items.  A
header that is left out says the default (``medium``, no team, no labels), and ``_`` that
the items of the batch differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

from swarm.messages import NewItem
from swarm.subjects import MIXED

#: The header that says what a submission may be routed by; the type is in its subject.
HEADER_OF = {
    "work_type": "Swarm-Type",
    "priority": "Swarm-Priority",
    "team": "Swarm-Team",
    "label": "Swarm-Label",
}


def header_value(text: str) -> str:
    """`text` as it may stand in a header: whatever else than letters and digits is escaped."""
    return quote(text, safe="")


def label_header(labels: Mapping[str, str]) -> str:
    """Labels as one header: ``name=value,name=value``."""
    pairs = (f"{header_value(name)}={header_value(value)}" for name, value in labels.items())
    return ",".join(sorted(pairs))


def labels_of(header: str) -> dict[str, str]:
    """The labels that a header says."""
    pairs = (pair.partition("=") for pair in header.split(",") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def values_of(key: str, work_type: str, headers: Mapping[str, str] | None) -> list[str]:
    """What a submission is routed by, as subject and headers have it; [] if its items differ."""
    if key == "work_type":
        return [] if work_type == MIXED else [work_type]
    said = headers.get(HEADER_OF[key], "") if headers else ""
    if said == MIXED:
        return []
    match key:
        case "priority":
            return [said or "medium"]
        case "team":
            return [unquote(said)] if said else []
        case _:
            assert key == "label", f"{key!r} is nothing to route by"
            return [f"{name}={value}" for name, value in labels_of(said).items()]


#: A longer header is not sent: ``_`` stands there instead.
HEADER_BYTES_MAX = 4096


class Common:
    """What the items of a batch have in common, to be said in its headers."""

    __slots__ = ("_labels", "_priority", "_team")

    def __init__(self, first: NewItem) -> None:
        self._priority: str = first.priority
        #: None: the items differ.
        self._team: str | None = first.team
        self._labels: dict[str, str] | None = first.labels

    def add(self, item: NewItem) -> None:
        """One more item of the batch."""
        if item.priority != self._priority:
            self._priority = MIXED
        if item.team != self._team:
            self._team = None
        if item.labels != self._labels:
            self._labels = None

    def headers(self) -> dict[str, str] | None:
        """The headers to send; None if there is nothing to say."""
        said = {}
        if self._priority != "medium":
            said[HEADER_OF["priority"]] = self._priority
        if self._team != "":
            said[HEADER_OF["team"]] = MIXED if self._team is None else header_value(self._team)
        if self._labels != {}:
            listed = MIXED if self._labels is None else label_header(self._labels)
            said[HEADER_OF["label"]] = listed if len(listed) <= HEADER_BYTES_MAX else MIXED
        assert all(said.values()), "nothing is said by being left out"
        return said or None


def contradiction(item: NewItem, headers: Mapping[str, str]) -> str:
    """In what an item is not what its headers say; empty: in nothing."""
    for key, name in HEADER_OF.items():
        said = headers.get(name, MIXED)
        if said == MIXED:
            continue
        match key:
            case "work_type":
                is_, says = item.work_type, said
            case "priority":
                is_, says = item.priority, said
            case "team":
                is_, says = item.team, unquote(said)
            case _:
                assert key == "label", "these are all"
                is_, says = label_header(item.labels), label_header(labels_of(said))
        if is_ != says:
            where = "the subject or the header" if key == "work_type" else "the header"
            return (
                f"its {key} is {is_[:200]!r}, but {where} {name}, by which it was routed, says "
                f"{says[:200]!r}; say the same in both, or _ there for items that differ"
            )
    return ""
