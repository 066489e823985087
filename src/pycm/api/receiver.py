# SPDX-License-Identifier: Apache-2.0
"""Takes in the requests of a call. The library's own function has no bound on the length and fails with bare assertions."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.api.methods import MAX_MESSAGE, PREFIX, PREFIX_SIZE
from pycm.waiting import within

if TYPE_CHECKING:
    from grpclib.server import Stream

#: Seconds for a request once its call, or its first bytes, have come.
TIMEOUT = 30.0
#: Longer requests take turns (see connection.Peer), so that clients that send slowly cannot fill the memory.
SMALL = 64 * 1024
CUT_SHORT = "the request ended before its message was complete"


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
