# SPDX-License-Identifier: Apache-2.0
"""What calls that stream have in common: work in both directions at once, and an end for clients that do not read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from grpclib.server import Stream

T = TypeVar("T")
#: Seconds that a client may take to read one message before its call is ended.
STALLED = 30.0


async def send(stream: Stream[Any, Any], message: Any) -> None:
    """Send one message. A client that does not take it is cut off: nothing may wait for it for ever."""
    try:
        await within(STALLED, stream.send_message(message))
    except asyncio.TimeoutError:
        # the usual end, trailers, would wait for the client too
        stream._cancel_done = True  # noqa: SLF001
        if stream._stream.closable:  # noqa: SLF001
            stream._stream.reset_nowait()  # noqa: SLF001
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the client did not read for {STALLED:g} s") from None


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
