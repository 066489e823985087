# SPDX-License-Identifier: Apache-2.0
"""The form of json.log: raw output is cut into lines, and each line is encoded as one JSON object (pure).

A whole batch is encoded at once. Its lines share one time, so that the text between two lines is a constant, and one
bytes.replace makes a hundred records. A line of more than LINE_LIMIT bytes becomes several records that share a time.
Only the last of them ends with a newline.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of a line, without its newline, in one record.
LINE_LIMIT = 16 * 1024


class Kind(enum.Enum):
    LINES = "whole lines, each with its newline"
    PART = "the beginning or a middle part of a long line"
    TAIL = "the last part of a long line, with its newline"


class Piece(NamedTuple):
    kind: Kind
    raw: bytes


def cut(data: bytes, *, continuing: bool, final: bool) -> Iterator[Piece]:
    """Pieces of *data* in order. An unfinished last line is left over, unless the output is *final*.

    *continuing*: data begins in the middle of a long line whose earlier parts were pieces of an earlier call.
    """
    start = position = 0  # data[start:position] are whole lines that will be one piece
    while True:
        end = min(position + LINE_LIMIT + 1, len(data))
        newline = data.find(b"\n", position, end) if continuing else data.rfind(b"\n", position, end)
        if newline < 0 and end - position <= LINE_LIMIT:
            break
        if newline >= 0 and not continuing:
            position = newline + 1
            continue
        if start < position:
            yield Piece(Kind.LINES, data[start:position])
        if newline >= 0:
            yield Piece(Kind.TAIL, data[position : newline + 1])
            start = position = newline + 1
            continuing = False
        else:
            start = _character_start(data, position + LINE_LIMIT)
            yield Piece(Kind.PART, data[position:start])
            position = start
            continuing = True
    if start < position:
        yield Piece(Kind.LINES, data[start:position])
    if final and position < len(data):
        yield Piece(Kind.TAIL if continuing else Kind.LINES, data[position:])


def _character_start(data: bytes, position: int) -> int:
    """*position*, or up to three bytes before it if a UTF-8 character would be split there."""
    for candidate in range(position, position - 4, -1):
        if data[candidate] & 0xC0 != 0x80:
            return candidate
    return position


def encode(piece: Piece, stream: str, time: str) -> bytes:
    """The records of *piece*, each with its newline."""
    head = b'{"stream":"%s","log":"' % stream.encode()
    foot = b'","time":"%s"}\n' % time.encode()
    if piece.kind is Kind.PART:
        return head + escape(piece.raw) + foot
    raw = piece.raw.removesuffix(b"\n")
    if b"\r" in raw:  # a search for one character is ten times faster than one for two
        raw = raw.replace(b"\r\n", b"\n")
        raw = raw.removesuffix(b"\r") if piece.raw.endswith(b"\r\n") else raw
    foot = b"\\n" + foot
    return head + escape(raw).replace(b"\n", foot + head) + foot


_SHORT = (
    (b"\\", rb"\\"),
    (b'"', rb"\""),
    (b"\t", rb"\t"),
    (b"\r", rb"\r"),
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
)
_SEPARATORS = (("\u2028".encode(), rb"\u2028"), ("\u2029".encode(), rb"\u2029"))
_CONTROLS = [bytes([number]) for number in range(0x20) if number not in b"\t\n\r"]
_ALL_CONTROLS = b"".join(_CONTROLS)
_CONTROL = re.compile(b"[" + re.escape(_ALL_CONTROLS) + b"]")
#: surrogateescape turns a byte that is not UTF-8 into one of these.
_INVALID = dict.fromkeys(range(0xDC80, 0xDD00), r"\ufffd")


def escape(raw: bytes) -> bytes:
    """*raw* as the inside of a JSON string, except newlines. By memchr, because most output needs no escape."""
    text = raw
    for character, replacement in _SHORT:
        text = text.replace(character, replacement)
    if _has_controls(text):
        text = _CONTROL.sub(lambda match: b"\\u%04x" % match[0][0], text)
    if text.isascii():
        return text
    for character, replacement in _SEPARATORS:
        text = text.replace(character, replacement)
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("utf-8", "surrogateescape").translate(_INVALID).encode()
    return text


def _has_controls(text: bytes) -> bool:
    """Whether *text* has control characters: by 29 searches with memchr, or in a short text by one pass."""
    if len(text) > 2048:
        return any(map(text.__contains__, _CONTROLS))
    return len(text.translate(None, _ALL_CONTROLS)) != len(text)
