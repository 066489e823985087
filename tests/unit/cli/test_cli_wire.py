# SPDX-License-Identifier: Apache-2.0
"""Answers of HTTP/1.1 without a socket."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.cli import wire
from pycm.cli.wire import Answer, AnswerError, ClosedError, NoJsonError
from support.http_peer import VERSION

CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
)


def read_in_parts(data: bytes, cuts: set[int]) -> Answer:
    answer = Answer()
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            answer.feed(data[start:end])
    return answer


@given(st.sets(st.integers(0, 1000)))
def test_answer_is_the_same_however_it_is_cut(cuts: set[int]) -> None:
    answer = read_in_parts(CHUNKED, cuts)
    assert (answer.status, bytes(answer.body), answer.ended) == (200, b"hello0123456789", True)
    answer = read_in_parts(b"HTTP/1.1 404 No\r\ncontent-LENGTH: 3\r\n\r\nabc", cuts)
    assert (answer.status, bytes(answer.body), answer.ended) == (404, b"abc", True)


@given(st.binary(min_size=1, max_size=300))
def test_answer_ends_in_an_error_of_its_own_whatever_comes(data: bytes) -> None:
    for prefix in (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        answer = Answer()
        try:
            answer.feed(prefix + data)
            answer.feed(b"")
        except (AnswerError, ClosedError):
            continue
        assert answer.ended


@pytest.mark.parametrize("data", [b"\0", b"HTTP/2", b"HTTX", b"http/1.1"])
def test_answer_recognises_another_protocol_at_its_first_bytes(data: bytes) -> None:
    with pytest.raises(NoJsonError):
        Answer().feed(data)


@pytest.mark.parametrize("size", [0, 3, 25])
def test_answer_that_ends_early_is_an_error(size: int) -> None:
    answer = Answer()
    if size:
        answer.feed(CHUNKED[:size])
    with pytest.raises(ClosedError):
        answer.feed(b"")


def test_the_greeting_of_tests_is_an_answer() -> None:
    assert wire.read_json(VERSION) == {"project_version": "0.1.0"}
