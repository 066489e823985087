# SPDX-License-Identifier: Apache-2.0
"""What calls that stream have in common: work in both directions at once, and an end for clients that do not read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from h2.errors import ErrorCodes

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from grpclib.server import Stream

T = TypeVar("T")
#: Seconds that a client may take to read one message before its call is ended.
STALLED = 30.0


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
