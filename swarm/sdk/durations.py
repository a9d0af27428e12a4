"""Durations as people write them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d|)$", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float | None:
    """Seconds from ``30``, ``30s``, ``500ms``, ``5m``, ``1.5h`` or ``1d``; None for others."""
    match = _DURATION.match(text)
    return None if match is None else float(match[1]) * _UNIT_S[match[2]]
