"""What of the logs is kept, and what each line of it says."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import structlog

from swarm.hosting.logs import Sampling, configure_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)


def lines_of(sample_rate: float, count: int) -> list[dict[str, Any]]:
    """What is written when so many things happen, each told at every level."""
    stream = io.StringIO()
    configure_logs(stream, "debug", sample_rate, node="c1")
    log = structlog.get_logger()
    for number in range(count):
        log.debug("seen", number=number)
        log.info("done", number=number)
        log.warning("odd", number=number)
        log.error("bad", number=number)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("sample_rate", [0.0, 0.1, 0.5])
def test_a_part_of_the_lines_is_kept_and_says_which_part(sample_rate: float) -> None:
    lines = lines_of(sample_rate, 1000)
    sampled = [line for line in lines if line["level"] in ("debug", "info")]
    # Six times the standard deviation.
    assert abs(len(sampled) - 2000 * sample_rate) <= 6 * (2000 * 0.25) ** 0.5
    assert bool(sampled) is bool(sample_rate)
    assert {line["sample_rate"] for line in sampled} <= {sample_rate}
    assert {line["node"] for line in lines} == {"c1"}


@pytest.mark.parametrize("sample_rate", [0.0, 0.1, 1.0])
def test_warnings_and_errors_are_always_written_as_they_are(sample_rate: float) -> None:
    lines = lines_of(sample_rate, 100)
    for level in ("warning", "error"):
        kept = [line for line in lines if line["level"] == level]
        assert [line["number"] for line in kept] == list(range(100))
        assert not any("sample_rate" in line for line in kept)


def test_without_sampling_nothing_is_left_out_and_nothing_is_added() -> None:
    lines = lines_of(1.0, 50)
    assert len(lines) == 200
    assert not any("sample_rate" in line for line in lines)


def test_each_line_is_drawn_for_itself() -> None:
    sampling = Sampling(0.5, Random(1))
    kept = []
    for number in range(64):
        try:
            sampling(None, "info", {"number": number})
            kept.append(number)
        except structlog.DropEvent:
            continue
    assert 0 < len(kept) < 64
    assert kept != list(range(kept[0], kept[0] + len(kept)))
