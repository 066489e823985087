# SPDX-License-Identifier: Apache-2.0
"""Bodies that come encoded, truly or not."""

from __future__ import annotations

import gzip
import http.client
import socket
import zlib
from typing import TYPE_CHECKING

import pytest

from pycm.errors import OperationFailedError, PycmError, UnavailableError
from pycm.http import client
from pycm.http.client import Response
from pycm.http.rules import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = b'{"name": "' + bytes(range(48, 123)) * 400 + b'"}'
LIMIT = 1 << 20


def raw_deflate(data: bytes, level: int) -> bytes:
    """What Go means by deflate: without zlib's header and checksum."""
    compressor = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.fixture
def answer() -> Iterator[Callable[..., Response]]:
    """A Response to what a server sends: a body of at most some 100 KiB, with its headers."""
    sockets: list[socket.socket] = []

    def do(body: bytes, encoding: str = "gzip", *, length: int | None = -1) -> Response:
        here, there = socket.socketpair()
        sockets.extend((here, there))
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n"
        if length is not None:
            head += f"Content-Length: {len(body) if length < 0 else length}\r\n"
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        there.sendall(head.encode() + b"\r\n" + body)
        there.close()
        raw = client._Raw(here)
        found = http.client.HTTPResponse(raw, method="GET")  # type: ignore[arg-type]
        found.begin()
        return Response(parse_address("http://r.test/x"), found, raw, here.close)

    yield do
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("GZip", gzip.compress(BODY)),
        ("identity, gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY, 9)),
        ("deflate", raw_deflate(BODY, 0)),
        ("gzip", gzip.compress(BODY[:99]) + gzip.compress(b"") + gzip.compress(BODY[99:])),
        ("identity", BODY),
        ("", BODY),
        ("gzip", BODY),  # labelled by the name of a file
        ("deflate", BODY),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("length", [-1, None])
def test_body_is_decoded_if_it_is_encoded(
    answer: Callable[..., Response], encoding: str, body: bytes, length: int | None
) -> None:
    assert answer(body, encoding, length=length).whole(LIMIT) == BODY
    response = answer(body, encoding, length=length)
    pieces = []
    while piece := response.read(1000):
        pieces.append(piece)
    assert b"".join(pieces) == BODY
    assert max(map(len, pieces)) <= 1000


@pytest.mark.parametrize("sent", [b"{}", b"bin/" + bytes(508), b"hello, world", bytes(512), b"\xff\xfe"])
def test_body_that_is_only_labelled_deflate_is_taken_as_it_is(
    answer: Callable[..., Response], sent: bytes
) -> None:
    assert answer(sent, "deflate").whole(LIMIT) == sent
    assert answer(raw_deflate(sent, 9), "deflate").whole(LIMIT) == sent


def test_headers_of_a_decoded_body_lack_its_length(answer: Callable[..., Response]) -> None:
    body = gzip.compress(BODY)
    response = answer(body)
    assert (response.headers.get("Content-Length"), response.sent) == (None, len(body))
    response.take_as_sent()
    assert response.headers.get("Content-Length") == str(len(body))
    assert response.whole(LIMIT) == body


def test_decoded_body_is_bounded(answer: Callable[..., Response]) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(OperationFailedError, match="sends more than 1048576 bytes"):
        answer(bomb).whole(LIMIT)
    assert answer(gzip.compress(bytes(LIMIT))).whole(LIMIT) == bytes(LIMIT)


def test_bytes_that_decode_to_nothing_are_bounded(
    answer: Callable[..., Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = gzip.compress(b"")
    monkeypatch.setattr(client, "BUFFER", 1000)
    monkeypatch.setattr(client, "BARREN", 50 * len(empty))
    assert answer(empty * 50 + gzip.compress(BODY)).whole(LIMIT) == BODY
    with pytest.raises(OperationFailedError, match="that decode to nothing"):
        answer(empty * 51 + gzip.compress(BODY)).whole(LIMIT)


@pytest.mark.parametrize(
    ("body", "encoding", "kind", "words"),
    [
        (gzip.compress(BODY)[:-9], "gzip", UnavailableError, "too early"),
        (gzip.compress(BODY)[:-8] + b"wrong sum", "gzip", OperationFailedError, "cannot be decoded"),
        (gzip.compress(BODY) + b"junk", "gzip", OperationFailedError, "cannot be decoded"),
        (BODY, "br", OperationFailedError, "encoded as 'br', expected none"),
        (BODY, "zstd", OperationFailedError, "encoded as 'zstd'"),
        (BODY, "gzip, gzip", OperationFailedError, "encoded as 'gzip,gzip'"),
    ],
    ids=range(6),
)
def test_body_that_cannot_be_decoded_is_one_clear_error(
    answer: Callable[..., Response], body: bytes, encoding: str, kind: type[PycmError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        answer(body, encoding).whole(LIMIT)


def test_encoded_body_shorter_than_announced_is_cut(answer: Callable[..., Response]) -> None:
    body = gzip.compress(BODY)
    with pytest.raises(UnavailableError, match="too early"):
        answer(body, length=len(body) + 1).whole(LIMIT)


def test_empty_body_needs_no_decoding(answer: Callable[..., Response]) -> None:
    assert answer(b"").whole(LIMIT) == b""
