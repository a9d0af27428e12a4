"""What every item and result must pass before it enters a log: a log is read for ever.

Payloads and results are handed on as the JSON that came, undecoded.  So whatever a
reader would stumble over later (a text that is no UTF-8, arrays nested deeper than its
stack) is refused here, by rules that do not depend on who checks.
"""

from __future__ import annotations

from typing import assert_never

import msgspec
from msgspec import Raw

from swarm.errors import BadInput, Refusal
from swarm.messages import PRIORITIES, Complete, Fail, ItemCommand, NewItem, Progress, Release, Wait
from swarm.subjects import parse_item_id

#: Arrays and objects within each other.  Decoders recurse: Python's stack of 1000 must
#: hold these, the log entry around them and whoever reads it.
NESTING_MAX = 200

_item_decoder = msgspec.json.Decoder(NewItem)
_BRACES_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_TOO_MANY = b"[" * (NESTING_MAX + 1)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_item(raw: Raw | bytes) -> NewItem:
    """The work item in `raw`; refuses what is none, or what this version cannot do."""
    check_json(raw, "the work item")
    try:
        item = _item_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", explain(str(error))) from error
    except msgspec.DecodeError as error:
        raise Refusal("bad_request", f"not valid JSON: {error}") from error
    for name in item.dependencies:
        try:
            parse_item_id(name)
        except BadInput as error:
            raise Refusal("bad_request", f"dependencies: {error}") from error
    return item


def explain(error: str) -> str:
    """A validation error of an item, with what is allowed instead."""
    if "$.priority" in error:
        return f"{error}; a priority is one of {', '.join(PRIORITIES)}"
    if "$.work_type" in error:
        return (
            f"{error}; a work_type has 1 to 64 letters, digits, '_' or '-', and begins with a "
            "letter or digit (no dots, blanks or wildcards: it is part of a subject)"
        )
    return error


def check_json(raw: Raw | bytes, what: str) -> None:
    """Refuse JSON that is no UTF-8 or nested too deep; its syntax its decoder checks."""
    text = bytes(raw)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            message = f"{what} is not valid UTF-8: {error.reason} at byte {error.start}"
            raise Refusal("bad_request", message) from error
    if _nested_deeper(text):
        raise Refusal(
            "bad_request",
            f"{what} is nested too deep; at most {NESTING_MAX} arrays and objects within each "
            "other are allowed: pass the data as a string, or by reference",
        )


def _nested_deeper(text: bytes) -> bool:
    """Whether more than `NESTING_MAX` arrays and objects are open at once somewhere."""
    if len(text) <= 2 * NESTING_MAX or text.count(b"[") + text.count(b"{") <= NESTING_MAX:
        return False
    # Without escapes, every second part between quotes is the inside of a text.
    outside = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(_BRACES_TO_BRACKETS, _NO_BRACKETS)
    for _ in range(NESTING_MAX):
        if not brackets:
            return False
        if _TOO_MANY in brackets:
            return True
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def stored_bytes(value: Raw | str) -> int:
    """Bytes that `value` takes as JSON, the quotes of a text not counted."""
    if isinstance(value, Raw):
        return len(memoryview(value))
    size = len(msgspec.json.encode(value)) - 2
    assert size >= len(value), "JSON shortens no text"
    return size


def command_text_bytes(command: ItemCommand) -> int:
    """Bytes that the command's own text takes in a message or a log."""
    match command:
        case Complete():
            return stored_bytes(command.result)
        case Fail():
            return stored_bytes(command.error)
        case Release():
            return stored_bytes(command.reason) + stored_bytes(command.checkpoint)
        case Progress():
            return stored_bytes(command.note) + stored_bytes(command.checkpoint)
        case Wait():
            return stored_bytes(command.waits_for) + stored_bytes(command.checkpoint)
        case _:
            assert_never(command)


def too_large(what: str, limit: int) -> Refusal:
    """The refusal of something over the item limit."""
    return Refusal(
        "too_large",
        f"{what}; at most {limit} are allowed: store the data elsewhere and pass a reference, "
        "or raise max_payload on the NATS server (an item may use a quarter of it)",
    )
