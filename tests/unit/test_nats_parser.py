"""What comes from the server is taken apart alike, however it is cut into pieces."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from nats.errors import ProtocolError

from swarm.bus.nats_parser import MessageParser

Taken = tuple[object, ...] | bytes

STREAM = (
    b'INFO {"server_id":"a"}\r\n'
    b"MSG a.b 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG a.c 12 _INBOX.me.1 0\r\n\r\n"
    b"HMSG a.d 3 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    b"HMSG a.e 3 r.s 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"+OK\r\n"
    b"MSG a.f 4 27\r\nMSG in.a.msg 1 2\r\nPING\r\n.\r\n\r\n"
    b"-ERR 'Some Trouble'\r\n"
    b"PONG\r\n"
)
TAKEN: list[Taken] = [
    b'INFO {"server_id":"a"}\r\n',
    (1, b"a.b", b"", b"hello", None),
    b"PING\r\n",
    (12, b"a.c", b"_INBOX.me.1", b"", None),
    (3, b"a.d", b"", b"hi", b"NATS/1.0\r\n\r\n"),
    (3, b"a.e", b"r.s", b"", b"NATS/1.0\r\n\r\n"),
    b"+OK\r\n",
    (4, b"a.f", b"", b"MSG in.a.msg 1 2\r\nPING\r\n.\r\n", None),
    b"-ERR 'Some Trouble'\r\n",
    b"PONG\r\n",
]


class Client:
    """Writes down what the parser calls."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []

    def receive(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.taken.append((sid, subject, reply, data, headers))

    def receive_with_headers(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self.taken.append((sid, subject, reply, data, headers))

    def control(self, line: bytes) -> None:
        if line[:4] not in (b"INFO", b"PING", b"PONG", b"-ERR", b"+OK\r"):
            raise ProtocolError
        self.taken.append(line)


def parse(*pieces: bytes) -> list[Taken]:
    client = Client()
    parser = MessageParser(client)
    for piece in pieces:
        parser.feed(piece)
    return client.taken


def test_everything_in_one_piece() -> None:
    assert parse(STREAM) == TAKEN


@pytest.mark.parametrize("size", [1, 2, 3, 7, 30])
def test_pieces_of_any_size(size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert parse(*pieces) == TAKEN


def test_two_pieces_cut_anywhere() -> None:
    for at in range(len(STREAM)):
        assert parse(STREAM[:at], STREAM[at:]) == TAKEN, f"cut at {at}"


def test_a_large_message_in_many_pieces_comes_whole() -> None:
    body = bytes(range(256)) * 4000
    stream = b"MSG a 1 %d\r\n%b\r\nPING\r\n" % (len(body), body)
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    assert parse(*pieces) == [(1, b"a", b"", body, None), b"PING\r\n"]


def test_what_is_left_of_a_lost_connection_is_forgotten() -> None:
    client = Client()
    parser = MessageParser(client)
    parser.feed(b"MSG a 1 100\r\nonly the beginn")
    parser.reset()
    parser.feed(b"PING\r\n")
    assert client.taken == [b"PING\r\n"]


@pytest.mark.parametrize(
    "line",
    [
        b"HELLO there\r\n",
        b"MSG a 1 many\r\n",
        b"MSG a one 0\r\n\r\n",
        b"MSG 5\r\nhello\r\n",
        b"HMSG a 1 x 12\r\nNATS/1.0\r\n\r\n\r\n",
        b"%b\r\n" % (b"x" * 5000),
    ],
)
def test_what_is_no_protocol_ends_the_connection(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(line)
