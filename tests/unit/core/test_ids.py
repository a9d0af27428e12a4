"""Command ids: they hold their time, sort by it, and nothing else passes for one."""

from __future__ import annotations

import uuid
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.ids import is_uuid7, uuid7, uuid7_ms

MS = st.integers(0, (1 << 48) - 1)
BITS = st.integers(0, (1 << 74) - 1)


@given(MS, BITS)
def test_an_id_holds_its_time_and_its_randomness(unix_ms: int, random_bits: int) -> None:
    text = uuid7(unix_ms, random_bits)
    assert is_uuid7(text)
    assert uuid7_ms(text) == unix_ms
    # As the standard library reads it (RFC 9562): version, variant, and all 74 bits.
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    value = parsed.int
    assert value >> 80 == unix_ms
    assert ((value >> 64) & 0xFFF) << 62 | value & ((1 << 62) - 1) == random_bits


def test_the_example_of_the_standard() -> None:
    # RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC, rand_a CC3, rand_b 18C4DC0C0C07398F.
    bits = 0xCC3 << 62 | 0x18C4DC0C0C07398F
    assert uuid7(0x017F22E279B0, bits) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(MS, MS, BITS, BITS)
def test_ids_sort_by_their_time(one_ms: int, two_ms: int, one: int, two: int) -> None:
    if one_ms < two_ms:
        assert uuid7(one_ms, one) < uuid7(two_ms, two)


def test_ids_of_one_moment_differ() -> None:
    rng = Random(1)
    assert len({uuid7(5, rng.getrandbits(74)) for _ in range(10_000)}) == 10_000


GOOD = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize(
    "text",
    [
        "", "x", GOOD.upper(), GOOD + "\n", " " + GOOD, GOOD + "0", GOOD[:-1],
        GOOD.replace("-", ""), "{" + GOOD + "}", "urn:uuid:" + GOOD,
        GOOD.replace("-7cc3", "-4cc3"), GOOD.replace("-98c4", "-c8c4"),
        GOOD.replace("-98c4", "-18c4"), GOOD.replace("f", "g"), GOOD.replace("0", "\u0660"),
    ],
)  # fmt: skip
def test_nothing_else_is_one(text: str) -> None:
    assert is_uuid7(GOOD)
    assert not is_uuid7(text)


@pytest.mark.parametrize(("unix_ms", "bits"), [(-1, 0), (1 << 48, 0), (0, -1), (0, 1 << 74)])
def test_what_an_id_cannot_hold(unix_ms: int, bits: int) -> None:
    with pytest.raises(AssertionError, match="hold"):
        uuid7(unix_ms, bits)
