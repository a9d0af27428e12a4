"""Texts measured and cut in bytes of UTF-8, as the limits of items are."""

from __future__ import annotations

_DOTS = "…"


def text_bytes(text: str) -> int:
    """Bytes of `text`; what UTF-8 cannot hold counts as one "?" each."""
    return len(text.encode(errors="replace"))


def cut_text(text: str, bytes_max: int) -> str:
    """`text`, cut to at most `bytes_max` bytes and marked with "…" if it was cut.

    What UTF-8 cannot hold (lone surrogates, as in odd file names) becomes "?".
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= bytes_max:
        return encoded.decode()
    room = bytes_max - len(_DOTS.encode())
    if room < 0:
        return ""
    cut = encoded[:room].decode(errors="ignore") + _DOTS
    assert text_bytes(cut) <= bytes_max, "cutting makes texts shorter"
    return cut
