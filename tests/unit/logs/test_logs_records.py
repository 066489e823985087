# SPDX-License-Identifier: Apache-2.0
"""The form of a line in json.log, checked by Go's rules as the original follows them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.logs.records import LINE_LIMIT, Kind, cut, encode, escape

TIME = "2026-11-23T18:39:26.49510863Z"


def records(data, *, continuing=False, final=True):
    pieces = cut(data, continuing=continuing, final=final)
    return [
        json.loads(line)
        for piece in pieces
        for line in encode(piece, "stdout", TIME).decode().removesuffix("\n").split("\n")
    ]


def logs(data, **options):
    return [record["log"] for record in records(data, **options)]


def test_a_line_has_the_keys_of_the_original_in_its_order():
    (piece,) = cut(b"hello\n", continuing=False, final=False)
    assert (
        encode(piece, "stderr", TIME)
        == b'{"stream":"stderr","log":"hello\\n","time":"2026-11-23T18:39:26.49510863Z"}\n'
    )


def test_the_carriage_return_before_a_newline_goes_and_an_open_end_gets_a_newline():
    """Vector log-crlf-and-eof."""
    assert logs(b"one\r\ntwo") == ["one\n", "two\n"]
    assert logs(b"\r\n\n a\rb\r\r\n") == ["\n", "\n", " a\rb\r\n"]


def test_an_open_end_waits_for_its_newline_while_more_may_come():
    assert logs(b"one\ntwo", final=False) == ["one\n"]
    assert logs(b"two", final=False) == []
    assert logs(b"x" * LINE_LIMIT, final=False) == []


def test_a_long_line_becomes_records_that_can_share_a_time():
    """Vector log-long-line."""
    parts = logs(b"x" * 20_000 + b"\nnext\n")
    assert list(map(len, parts)) == [16_384, 3_617, 5]
    pieces = list(cut(b"a\n" + b"x" * 40_000 + b"\nb\nc\n", continuing=False, final=False))
    assert [piece.kind for piece in pieces] == [Kind.LINES, Kind.PART, Kind.PART, Kind.TAIL, Kind.LINES]
    assert pieces[-1].raw == b"b\nc\n"


def test_a_line_of_exactly_the_limit_is_one_record():
    assert list(map(len, logs(b"x" * LINE_LIMIT + b"\n"))) == [LINE_LIMIT + 1]
    assert list(map(len, logs(b"x" * LINE_LIMIT))) == [LINE_LIMIT + 1]


def test_the_rest_of_a_long_line_is_its_tail_even_when_it_comes_later():
    (tail, lines) = cut(b"rest\nnext\n", continuing=True, final=False)
    assert (tail.kind, tail.raw, lines.raw) == (Kind.TAIL, b"rest\n", b"next\n")
    assert list(cut(b"rest", continuing=True, final=False)) == []
    (tail,) = cut(b"rest", continuing=True, final=True)
    assert tail.kind is Kind.TAIL


def test_a_character_is_not_torn_by_the_limit():
    assert "".join(logs("é".encode() * 20_001 + b"\n")) == "é" * 20_001 + "\n"
    assert "".join(logs(b"x" + "€𝄞".encode() * 9_001 + b"\n")) == "x" + "€𝄞" * 9_001 + "\n"


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        (b'say "a\\b"', rb"say \"a\\b\""),
        (b"<a href=&>", rb"\u003ca href=\u0026\u003e"),
        (b"a\tb\rc", rb"a\tb\rc"),
        (b"\x00\x07\x08\x0b\x0c\x1b[0m\x7f", b"\\u0000\\u0007\\u0008\\u000b\\u000c\\u001b[0m\x7f"),
        ("\u2028\u2029\u2027".encode(), b"\\u2028\\u2029" + "\u2027".encode()),
        ("äö\ufffd€😀".encode(), "äö\ufffd€😀".encode()),
        (b"a\xffb", rb"a\ufffdb"),
        (b"\xe2\x82", rb"\ufffd\ufffd"),
        (b"\xed\xa0\x80", rb"\ufffd\ufffd\ufffd"),
        (b"\xc0\xaf\xf5", rb"\ufffd\ufffd\ufffd"),
        (b"\xf0\xe2\x80\xa8\\", b"\\ufffd\\u2028\\\\"),
    ],
)
def test_characters_are_written_as_go_writes_them(raw, written):
    assert escape(raw) == written


@given(st.binary(max_size=400), st.booleans())
def test_every_output_comes_back_as_far_as_it_is_text(data, final):
    text = data.decode("utf-8", "surrogateescape").translate(dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd"))
    text = text.replace("\r\n", "\n")
    if not final:
        text = text[: text.rfind("\n") + 1]
    elif text and not text.endswith("\n"):
        text += "\n"
    assert "".join(logs(data, final=final)) == text


@given(
    st.lists(st.sampled_from([b"\n", b"a", b"\r", "é".encode(), b"x" * 9_000, b"y" * 30_000]), max_size=12)
)
def test_pieces_are_the_output_itself_without_a_gap(chunks):
    data = b"".join(chunks)
    pieces = list(cut(data, continuing=False, final=True))
    assert b"".join(piece.raw for piece in pieces) == data
    for piece in pieces:
        assert max(len(line) for line in piece.raw.split(b"\n")) <= LINE_LIMIT
