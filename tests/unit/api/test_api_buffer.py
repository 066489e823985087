# SPDX-License-Identifier: Apache-2.0
"""Received bytes of one call: what is given back to the client, and when."""

import asyncio

from pycm.api.server.grpc_connection import Buffer
from support.api_world import eventually


class Counted:
    def __init__(self) -> None:
        self.acked, self.held = 0, 0

    def ack(self, size: int) -> None:
        self.acked += size

    def hold(self, size: int) -> None:
        self.held += size


def buffered() -> tuple[Buffer, Counted]:
    count = Counted()
    return Buffer(count.ack, count.hold), count


async def test_buffer_gives_back_what_was_read_and_no_more() -> None:
    buffer, count = buffered()
    for _ in range(10):
        buffer.add(b"abcde", 5)
    assert (count.acked, count.held) == (0, 50)
    assert await buffer.read(7) == b"abcdeab"
    assert (count.acked, count.held) == (7, 43)
    buffer.add(b"z", 11)  # ten bytes of it are padding
    assert await buffer.read(44) == b"cde" + b"abcde" * 8 + b"z"
    assert (count.acked, count.held) == (61, 0)


async def test_buffer_lets_more_come_for_a_reader_that_waits() -> None:
    buffer, count = buffered()
    buffer.add(b"abc", 3)
    reading = asyncio.ensure_future(buffer.read(5))
    await eventually(lambda: count.acked == 3)
    buffer.add(b"", 0)  # an empty frame is not the end
    await asyncio.sleep(0)
    assert not reading.done()
    buffer.add(b"defg", 4)
    assert await reading == b"abcde"
    assert (count.acked, count.held) == (5, 2)
    assert (buffer.unacked_size(), count.held) == (2, 0)


async def test_buffer_ends_with_fewer_bytes() -> None:
    buffer, _ = buffered()
    buffer.add(b"abc", 3)
    buffer.eof()
    assert await buffer.read(5) == b"abc"
    assert await buffer.read(5) == b""
    assert await buffer.read(0) == b""
