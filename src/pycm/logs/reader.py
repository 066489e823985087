# SPDX-License-Identifier: Apache-2.0
"""json.log read back: the last records, or all of it in big messages. Reads blocks, never the file as a whole.

What stands after the last newline is a record being written just now, or torn by a power cut; it is not shown. Functions here
block; `files` runs them in a worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 256 * 1024
#: A message of the whole file ends with the first record that makes it bigger than this.
MESSAGE_BYTES = 3 * 1024 * 1024
#: gRPC's limit is 4 MiB a message: a record of a foreign file that would go beyond is cut.
RECORD_BYTES = 512 * 1024


def last_records(descriptor: int, count: int) -> Iterator[str]:
    """The last *count* records, oldest first, without their newlines."""
    begin, end = _tail_range(descriptor, count)
    for part in _records(descriptor, begin, end):
        yield part.rstrip(b"\n").decode("utf-8", "replace")


def whole_file(descriptor: int) -> Iterator[str]:
    """Messages of whole records, and a last one, which may be empty."""
    message = bytearray()
    _, end = _tail_range(descriptor, 0)
    for part in _records(descriptor, 0, end):
        message += part
        if len(message) > MESSAGE_BYTES:
            yield message.decode("utf-8", "replace")
            message.clear()
    yield message.decode("utf-8", "replace")


def _tail_range(descriptor: int, count: int) -> tuple[int, int]:
    """Where the last *count* records begin and end, found from the end backwards."""
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
                return begin + newline + 1, end
            if count == 0:
                return end, end
        position = begin
    return 0, max(end, 0)


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
