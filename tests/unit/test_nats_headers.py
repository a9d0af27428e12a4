"""Headers are read as they were written, and as the server writes its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.bus.nats_headers import decode_headers, encode_headers

NAMES = st.text("abcXYZ-019_!#", min_size=1, max_size=20)
VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])).map(str.strip)


@given(st.dictionaries(NAMES, VALUES))
def test_what_was_written_is_read(headers: dict[str, str]) -> None:
    assert decode_headers(encode_headers(headers)) == headers


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 16\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "16"},
        ),
        (b"NATS/1.0\r\nA:1\r\nB:\t 2 \r\nC: 3: 4\r\n\r\n", {"A": "1", "B": "2", "C": "3: 4"}),
        # The last one counts; what is no header is passed over, what is no text is replaced.
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n", {"A": "2"}),
        (b"NATS/1.0\r\nno colon\r\nA B: 1\r\n\xff: 2\r\n: 3\r\nC: \xff\r\n\r\n", {"C": "\ufffd"}),
    ],
)
def test_what_the_server_and_others_write(block: bytes, headers: dict[str, str]) -> None:
    assert decode_headers(block) == headers
