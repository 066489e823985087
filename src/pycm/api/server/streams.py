# SPDX-License-Identifier: Apache-2.0
"""What calls have in common: requests with a bound on length and time, work in both directions at once, and an end for clients that
do not read. The library's own functions have no bounds.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from pycm.api.methods import MAX_MESSAGE, PREFIX, PREFIX_SIZE
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from grpclib.server import Stream

T = TypeVar("T")
#: Seconds for a request once its call, or its first bytes, have come.
TIMEOUT = 30.0
#: Longer requests take turns (see connection.Peer), so that clients that send slowly cannot fill the memory.
SMALL = 64 * 1024
CUT_SHORT = "the request ended before its message was complete"
#: Seconds that a client may take to read one message before its call is ended.
STALLED = 30.0


async def receive(stream: Stream[Any, Any], request_type: Any) -> Any:
    """Return the first request of a call. Errors: GRPCError."""
    source = stream._stream  # noqa: SLF001 - the only way to look at the length before the message is read
    return await _message(source, await _timely(source, PREFIX_SIZE), request_type)


async def receive_next(stream: Stream[Any, Any], request_type: Any) -> Any | None:
    """Return the next of a client's many requests, None when it has sent all. Errors: GRPCError."""
    source = stream._stream  # noqa: SLF001 - as above
    prefix = await source.recv_data(PREFIX_SIZE)
    return await _message(source, prefix, request_type) if prefix else None


async def _message(source: Any, prefix: bytes, request_type: Any) -> Any:
    if len(prefix) != PREFIX_SIZE:
        raise GRPCError(Status.INTERNAL, CUT_SHORT)
    compressed, length = struct.unpack(PREFIX, prefix)
    if compressed:
        raise GRPCError(
            Status.UNIMPLEMENTED, "compressed messages are not supported: send without compression"
        )
    if length > MAX_MESSAGE:
        text = f"grpc: received message larger than max ({length} vs. {MAX_MESSAGE})"
        raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
    if length <= SMALL:
        data = await _timely(source, length)
    else:
        async with source.connection.client.peer.large:
            data = await _timely(source, length)
    if len(data) != length:
        raise GRPCError(Status.INTERNAL, CUT_SHORT)
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise GRPCError(
            Status.INTERNAL, f"the request is no {request_type.DESCRIPTOR.name} message: {error}"
        ) from None


async def _timely(source: Any, size: int) -> bytes:
    read = source.recv_data(size)
    try:
        return await (read if source.buffer.has(size) else within(TIMEOUT, read))
    except asyncio.TimeoutError:
        text = f"the request did not come within {TIMEOUT:g} s"
        raise GRPCError(Status.DEADLINE_EXCEEDED, text) from None


async def send(stream: Stream[Any, Any], message: Any) -> None:
    """Send one message. A client that does not take it is cut off: nothing may wait for it for ever."""
    timer = asyncio.get_running_loop().call_later(STALLED, _cut_off, stream)
    try:
        await stream.send_message(message)
    finally:
        timer.cancel()


def _cut_off(stream: Stream[Any, Any]) -> None:
    # the usual end, trailers, would wait for the client too
    stream._cancel_done = True  # noqa: SLF001
    source = stream._stream  # noqa: SLF001
    if source.closable:
        source.reset_nowait(ErrorCodes.ENHANCE_YOUR_CALM)
    source.__terminated__(f"the client did not read for {STALLED:g} s")


def answering(stream: Stream[Any, Any]) -> asyncio.Lock:
    """Return the lock of the connection under which long answers are made and sent: one is enough to hold for a client."""
    return stream._stream.connection.client.answering  # type: ignore[attr-defined, no-any-return] # noqa: SLF001


async def beside(work: Coroutine[Any, Any, T], side: Coroutine[Any, Any, None]) -> T:
    """The result of *work*. *side* is ended with it; if *side* fails, its error ends both."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(side)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            tasks[1].result()
        return await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
