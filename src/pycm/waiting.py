# SPDX-License-Identifier: Apache-2.0
"""Waiting with a limit. `asyncio.wait_for` is not used: before Python 3.12 it swallows a cancellation that comes together with the
result, and a loop that was told to end goes on for ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """The result of *work*, which is cancelled after *seconds* (None: never) and with its caller. Error: asyncio.TimeoutError."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        await _end(task)
        raise
    if not done:
        await _end(task)
        if task.cancelled():
            raise asyncio.TimeoutError
    return task.result()


async def _end(task: asyncio.Future[T]) -> None:
    """Cancel it and wait until it has ended, with whatever result."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # has been seen
