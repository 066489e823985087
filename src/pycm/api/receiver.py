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
    from collections.abc import Awaitable, Callable

    from grpclib.server import Stream

#: Requests longer than SMALL are taken in by at most LARGE_AT_ONCE calls at a time, each for at most LARGE_TIMEOUT seconds, so
#: that clients who send slowly cannot fill the memory.
SMALL = 64 * 1024
LARGE_AT_ONCE = 4
LARGE_TIMEOUT = 30.0
CUT_SHORT = "the request ended before its message was complete"


class Receiver:
    """One for a server: calls share the turns for large requests. Errors: GRPCError."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(LARGE_AT_ONCE)

    async def __call__(self, stream: Stream[Any, Any], request_type: Any) -> Any:
        source = stream._stream  # noqa: SLF001 - the only way to look at the length before the message is read
        return await self._message(source, await _exactly(source.recv_data, PREFIX_SIZE), request_type)

    async def next(self, stream: Stream[Any, Any], request_type: Any) -> Any | None:
        """The next of a client's many requests; None when it has sent all."""
        source = stream._stream  # noqa: SLF001 - as above
        try:
            prefix = await source.recv_data(PREFIX_SIZE)
        except AssertionError:  # the stream ended after some bytes
            prefix = b"\0"
        return await self._message(source, prefix, request_type) if prefix else None

    async def _message(self, source: Any, prefix: bytes, request_type: Any) -> Any:
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
        take = _exactly if length <= SMALL else self._large
        data = await take(source.recv_data, length)
        try:
            return request_type.FromString(data)
        except DecodeError as error:
            raise GRPCError(
                Status.INTERNAL, f"the request is no {request_type.DESCRIPTOR.name} message: {error}"
            ) from None

    async def _large(self, recv_data: Callable[[int], Awaitable[bytes]], size: int) -> bytes:
        async with self._turns:
            try:
                return await within(LARGE_TIMEOUT, _exactly(recv_data, size))
            except asyncio.TimeoutError:
                text = f"the request of {size} bytes did not come within {LARGE_TIMEOUT:g} s"
                raise GRPCError(Status.DEADLINE_EXCEEDED, text) from None


async def _exactly(recv_data: Callable[[int], Awaitable[bytes]], size: int) -> bytes:
    try:
        data = await recv_data(size)
    except AssertionError:  # how grpclib says that the stream ended early
        data = b""
    if len(data) != size:
        raise GRPCError(Status.INTERNAL, CUT_SHORT)
    return data
