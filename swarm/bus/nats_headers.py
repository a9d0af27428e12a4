"""Headers as they travel: NATS ADR-4, ``NATS/1.0[ <status>[ <text>]]`` and a line for each."""

from __future__ import annotations

from collections.abc import Mapping


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as they travel; ValueError for what would break them."""
    lines = [f"{key}: {value}\r\n" for key, value in headers.items()]
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise ValueError(f"a header has a line break in it: {dict(headers)!r}")
    return f"NATS/1.0\r\n{text}\r\n".encode()


def decode_headers(block: bytes) -> dict[str, str]:
    """The headers of a message as it came; a line that is none is passed over.

    A status of the server's is under ``Status``, the text beside it under ``Description``, as
    nats-py has it.
    """
    version, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    _, _, said = version.partition(" ")
    if said:
        status, _, text = said.partition(" ")
        if status.isdecimal():
            headers["Status"] = status
        if text:
            headers["Description"] = text
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip()
        if colon and name.isascii() and name.isprintable() and name and " " not in name:
            headers[name] = value.strip()
    return headers
