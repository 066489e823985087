# SPDX-License-Identifier: Apache-2.0
"""json.log and its rotated files read back: the last records, or all in big messages. Reads blocks, never a file as a whole.

What stands after the last newline is a record being written just now, or torn by a power cut; it is not shown. Functions here
block; `files` runs them in a worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 256 * 1024
#: A message of the whole file ends with the first record that makes it bigger than this.
MESSAGE_BYTES = 3 * 1024 * 1024
#: gRPC's limit is 4 MiB a message: a record of a foreign file that would go beyond is cut.
RECORD_BYTES = 512 * 1024


def last_records(descriptors: Iterable[int], count: int) -> Iterator[str]:
    """The last *count* records, oldest first, without their newlines. *descriptors*: newest file first, taken as far as needed."""
    parts = []
    for descriptor in descriptors:
        begin, end, found = _tail_range(descriptor, count)
        parts.append((descriptor, begin, end))
        count -= found
        if count <= 0:
            break
    for part in _records_of(parts):
        yield part.rstrip(b"\n").decode("utf-8", "replace")


def all_records(descriptors: Iterable[int]) -> Iterator[str]:
    """Messages of whole records, oldest first, and a last one, which may be empty. *descriptors*: newest file first."""
    message = bytearray()
    parts = [(descriptor, 0, _tail_range(descriptor, 0)[1]) for descriptor in descriptors]
    for part in _records_of(parts):
        message += part
        if len(message) > MESSAGE_BYTES:
            yield message.decode("utf-8", "replace")
            message.clear()
    yield message.decode("utf-8", "replace")


def _records_of(parts: list[tuple[int, int, int]]) -> Iterator[bytes]:
    for descriptor, begin, end in reversed(parts):
        yield from _records(descriptor, begin, end)


def _tail_range(descriptor: int, count: int) -> tuple[int, int, int]:
    """Where the last *count* records begin and end, and how many there are; found from the end backwards."""
    position = os.fstat(descriptor).st_size
    end = -1
    left = count
    while position > 0:
        begin = max(position - BLOCK, 0)
        block = os.pread(descriptor, position - begin, begin)
        newline = len(block)
        while (newline := block.rfind(b"\n", 0, newline)) >= 0:
            if end < 0:
                end = begin + newline + 1
            elif (left := left - 1) == 0:
                return begin + newline + 1, end, count
            if count == 0:
                return end, end, 0
        position = begin
    return 0, max(end, 0), count - left + (end > 0)


def _records(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """Records from *begin* to *end*, each with its newline; overlong ones in pieces. Ends early if the file was cut."""
    rest = b""
    while begin < end:
        block = os.pread(descriptor, min(BLOCK, end - begin), begin)
        if not block:
            return
        begin += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(rest) > RECORD_BYTES:
            yield rest
            rest = b""
