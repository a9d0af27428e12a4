"""JSON Schemas of everything that travels, made from `swarm.messages`.

    python -m swarm.schemas            writes docs/schemas/*.json
    python -m swarm.schemas --check    exit 1 and the names of those that differ

``messages.json`` holds every message under ``$defs``; ``index.json`` says which of them
goes where: the subject table of docs/protocol.md for programs.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta, Raw, Struct, structs

from swarm import messages
from swarm.core.envelope import FORMAT
from swarm.errors import REFUSAL_CODES
from swarm.messages import SUBMIT_ITEMS_MAX, ErrorBody, Item, NewItem

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: Where `main` writes, from the root of a checkout.
FOLDER: Final = Path("docs/schemas")

#: Fields that are stored encoded and have a shape of their own nevertheless.
ENCODED: Final[Mapping[tuple[str, str], Any]] = {
    ("Assignment", "item"): NewItem,
    ("Copied", "items"): list[Item],
    ("Item", "spec"): NewItem,
    ("ShardSubmit", "items"): list[NewItem],
    ("Submit", "items"): Annotated[list[NewItem], Meta(max_length=SUBMIT_ITEMS_MAX)],
    ("Submitted", "items"): list[NewItem],
}

Who = Literal["client", "agent", "router", "coordinator", "owner", "leader", "anyone"]


class Route(Struct, frozen=True, omit_defaults=True):
    """One row of the subject table."""

    subject: str
    #: Who publishes, and who takes it.
    publisher: Who
    receiver: Who
    #: What is sent.
    message: str
    #: What may come back, an `ErrorReply` aside; empty: nothing does.
    replies: list[str] = []
    #: More than one reply may come.
    several: bool = False
    #: Headers with a meaning here.
    headers: list[str] = []


#: What the items of a batch have in common, and routers may route by.
_SUBMIT = ["Swarm-Priority", "Swarm-Team", "Swarm-Label"]
_COMMAND = "<p>.shard.<n>.{verb}.<sender>"
_SESSION = ["Swarm-Session"]

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "<p>.submit.<work_type>.<sender>",
        "client",
        "router",
        "Submit",
        ["SubmitReply"],
        several=True,
        headers=_SUBMIT,
    ),
    Route("<p>.describe.<sender>", "client", "router", "Describe", ["Description"]),
    Route("<p>.routes.<sender>", "client", "router", "Routes", ["RoutingReport"], several=True),
    Route("<p>.attach.<agent>", "agent", "router", "Attach", ["Attached"]),
    Route("<p>.coordinator.<id>.next.<agent>", "agent", "coordinator", "Next"),
    Route("<p>.coordinator.<id>.recall.<sender>", "agent", "coordinator", "Recall", ["Recalled"]),
    Route("<p>.heartbeat.<agent>", "agent", "coordinator", "Heartbeat"),
    Route("<p>.agent.<agent>.<session>.work", "coordinator", "agent", "Work"),
    Route("<p>.agent.<agent>.<session>.control", "coordinator", "agent", "Control"),
    Route(_COMMAND.format(verb="claim"), "agent", "owner", "Claim", ["Assignment"]),
    *(
        Route(_COMMAND.format(verb=verb), "agent", "owner", verb.title(), ["Ack"], headers=_SESSION)
        for verb in ("complete", "fail", "release", "progress", "wait")
    ),
    Route(_COMMAND.format(verb="renew"), "agent", "owner", "Renew", ["Ack"]),
    Route(_COMMAND.format(verb="get"), "client", "owner", "Get", ["WorkItem"]),
    Route(_COMMAND.format(verb="list"), "client", "owner", "List", ["ItemPage"]),
    Route(_COMMAND.format(verb="stats"), "client", "owner", "Stats", ["ShardStats"]),
    *(
        Route(_COMMAND.format(verb=verb), "client", "owner", verb.title(), ["Ack"])
        for verb in ("cancel", "prioritize", "retry", "answer")
    ),
    Route(_COMMAND.format(verb="submit"), "coordinator", "owner", "ShardSubmit", ["SubmitReply"]),
    Route(
        "<p>.shard.<n>.known.<coordinator>", "coordinator", "owner", "ShardSubmit", ["KnownReply"]
    ),
    Route(
        "<p>.coordinator.<id>.submit.<sender>",
        "router",
        "coordinator",
        "Submit",
        ["SubmitReply"],
        several=True,
        headers=["Swarm-Type", *_SUBMIT],
    ),
    Route(
        "<p>.coordinator.<id>.attach.<agent>",
        "router",
        "coordinator",
        "Attach",
        ["Attached"],
        headers=[*_SESSION, "Swarm-Router"],
    ),
    Route("<p>.coordinator.<id>.health.<sender>", "router", "coordinator", "Probe", ["Pulse"]),
    Route("<p>.coordinator.<id>.borrow.<coordinator>", "coordinator", "coordinator", "Borrow"),
    Route("<p>.coordinator.<id>.lend.<coordinator>", "coordinator", "coordinator", "Lend"),
    Route(
        "<p>.coordinator.<id>.handoff.<coordinator>",
        "coordinator",
        "coordinator",
        "Handoff",
        ["HandoffReply"],
    ),
    Route("<p>.coordinator.<id>.move.<sender>", "client", "coordinator", "Move", ["Moved"]),
    # Answers to these are messages of their own, to the shard of the other item.
    *(
        Route("<p>.shard.<n>.edge.<coordinator>", "owner", "owner", message)
        for message in ("Watch", "Watching", "Outcome", "Heard")
    ),
    Route("<p>.attached.<agent>", "coordinator", "coordinator", "Attention"),
    Route("<p>.beat.<coordinator>", "coordinator", "anyone", "Beat"),
    Route("<p>.gone.<coordinator>", "coordinator", "anyone", "Gone"),
    Route("<p>log.<n>", "owner", "anyone", "LogEntry"),
    Route("<p>done.<n>.<block>", "owner", "anyone", "Finished"),
    Route("<p>.control.rules.<sender>", "client", "leader", "SetRules", ["ControlReply"]),
    Route("<p>.control.conflict.<sender>", "client", "leader", "TellConflict", ["ControlReply"]),
    Route("<p>.control.resize.<sender>", "client", "leader", "Resize", ["ControlReply"]),
    Route("<p>.control.look.<sender>", "client", "leader", "Look", ["ClusterView"]),
    Route("<p>log.cluster", "leader", "anyone", "ClusterEntry"),
    Route("$KV.<p>-state.map", "coordinator", "anyone", "ShardMap"),
    Route("$KV.<p>-state.rules", "leader", "anyone", "RoutingRules"),
)


class ErrorReply(Struct):
    """The reply that refuses a whole request."""

    error: ErrorBody


def classes() -> list[type[Struct]]:
    """Every message, and what messages are made of, by name."""
    found = (getattr(messages, name) for name in messages.__all__)
    return [one for one in found if isinstance(one, type) and issubclass(one, Struct)]


def bundle() -> dict[str, Any]:
    """``messages.json``: a schema for each of `classes`, under ``$defs``."""
    mirrors = _Mirrors()
    shown: list[type[Struct]] = [*classes(), ErrorReply]
    _, components = msgspec.json.schema_components(map(mirrors.of, shown))
    for one in shown:
        properties = _properties(one, components[one.__name__])
        for field, text in _field_texts(one).items():
            properties[field]["description"] = text
    return {
        "$schema": DIALECT,
        "$id": f"messages-v{FORMAT}.json",
        "title": "Messages of SwarmSH on NATS",
        "description": "Fields that are not named here are ignored by whoever reads a message.",
        "$defs": dict(sorted(components.items())),
    }


def _properties(message: type[Struct], schema: dict[str, Any]) -> dict[str, Any]:
    """The schemas of a message's fields by name, also where it is written as an array."""
    config = message.__struct_config__
    if not config.array_like:
        found: dict[str, Any] = schema["properties"]
        return found
    tag = config.tag is not None
    return dict(zip(message.__struct_encode_fields__, schema["prefixItems"][tag:], strict=True))


def index() -> dict[str, Any]:
    """``index.json``: which message goes where, and the codes of errors."""
    return {
        "version": FORMAT,
        "schemas": "messages.json",
        "error_reply": "ErrorReply",
        "error_codes": sorted(REFUSAL_CODES),
        "routes": [msgspec.to_builtins(route) for route in ROUTES],
    }


def files() -> dict[str, bytes]:
    """All files by name."""
    made = {"messages.json": bundle(), "index.json": index()}
    return {
        name: msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
        for name, content in made.items()
    }


class _Mirrors:
    """Copies of message classes for msgspec's schemas, which refuse a default that is `Raw`.

    "Any JSON" is `Any` in a copy; what `ENCODED` names is what it is said to be there.
    """

    def __init__(self) -> None:
        self._made: dict[type[Struct], type[Struct]] = {}

    def of(self, original: type[Struct]) -> type[Struct]:
        """The copy of this class."""
        made = self._made.get(original)
        if made is None:
            made = self._made[original] = self._make(original)
        return made

    def _make(self, original: type[Struct]) -> type[Struct]:
        hints = get_type_hints(original, include_extras=True)
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for field in structs.fields(original):
            hint = ENCODED.get((original.__name__, field.name), hints[field.name])
            kind = self._copy(hint)
            if field.default is NODEFAULT and field.default_factory is NODEFAULT:
                fields.append((field.encode_name, kind))
            elif field.default is NODEFAULT:
                default = msgspec.field(default_factory=field.default_factory)
                fields.append((field.encode_name, kind, default))
            else:
                plain = isinstance(field.default, Raw)
                default = msgspec.json.decode(field.default) if plain else field.default
                fields.append((field.encode_name, kind, default))
        config = original.__struct_config__
        return msgspec.defstruct(
            original.__name__,
            fields,
            namespace={"__doc__": inspect.cleandoc(original.__doc__ or "")},
            tag_field=config.tag_field,
            tag=config.tag,
            array_like=config.array_like,
        )

    def _copy(self, hint: Any) -> Any:
        """`hint` with every class in it replaced by its copy."""
        if hint is Raw:
            return Any
        if isinstance(hint, type) and issubclass(hint, Struct):
            return self.of(hint)
        origin, parts = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return Annotated[self._copy(parts[0]), *parts[1:]]
        if origin in (UnionType, Union):
            return reduce(or_, map(self._copy, parts))
        if origin in (list, dict, tuple):
            return origin[tuple(map(self._copy, parts))]
        return hint


def _field_texts(message: type[Struct]) -> dict[str, str]:
    """What stands above the fields of a message, in ``#:`` lines."""
    source = textwrap.dedent(inspect.getsource(message))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef), "messages are classes"
    texts: dict[str, str] = {}
    for statement in definition.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        above = _comment_above(lines, statement.lineno - 1)
        if above:
            texts[statement.target.id] = " ".join(above)
    return texts


def _comment_above(lines: list[str], number: int) -> list[str]:
    above: list[str] = []
    while number > 0 and lines[number - 1].strip().startswith("#:"):
        number -= 1
        above.insert(0, lines[number].strip().removeprefix("#:").strip())
    return above


# --- the command ---------------------------------------------------------------------------


def differing(folder: Path) -> list[str]:
    """Names of files in `folder` that are not as they would be written, missing ones included."""
    made = files()
    stale = sorted(path.name for path in folder.glob("*.json") if path.name not in made)
    return stale + [name for name, data in made.items() if _read(folder / name) != data]


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def main(argv: Iterable[str] | None = None) -> int:
    """Write the schemas, or check those that are there; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m swarm.schemas", description="JSON Schemas of everything that travels."
    )
    parser.add_argument("--check", action="store_true", help="only name the files that differ")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    args = parser.parse_args(None if argv is None else list(argv))
    if args.check:
        names = differing(args.folder)
        for name in names:
            sys.stdout.write(f"{args.folder / name} differs; run: python -m swarm.schemas\n")
        return 1 if names else 0
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, data in files().items():
        (args.folder / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
