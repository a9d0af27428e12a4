"""Command ids: UUIDv7 (RFC 9562, section 5.7), so that an id tells when it was made."""

from __future__ import annotations

import re

#: A command id may be this far ahead of an owner's clock: more would move the horizon of
#: the dedupe window so far that everybody's retries look too old.
CLOCK_AHEAD_MAX_S = 300.0

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def uuid7(unix_ms: int, random_bits: int) -> str:
    """A UUIDv7 of this time (milliseconds since the epoch) and these 74 random bits."""
    assert 0 <= unix_ms < 1 << 48, "outside what a UUIDv7 can hold"
    assert 0 <= random_bits < 1 << 74, "a UUIDv7 holds 74 random bits"
    value = unix_ms << 80 | 0x7 << 76 | (random_bits >> 62) << 64 | 0b10 << 62
    text = f"{value | random_bits & ((1 << 62) - 1):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_uuid7(text: str) -> bool:
    """Whether `text` is a UUIDv7 in its usual lower-case form."""
    return _UUID.fullmatch(text) is not None


def uuid7_ms(text: str) -> int:
    """When the id was made, milliseconds since the epoch."""
    return int(text[:8] + text[9:13], 16)


def command_order(command_id: str) -> int:
    """Milliseconds since the epoch at which the command was made; 0 if its id tells none."""
    return uuid7_ms(command_id) if is_uuid7(command_id) else 0
