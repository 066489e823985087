# SPDX-License-Identifier: Apache-2.0
"""Waiting with a limit. `asyncio.wait_for` is not used: before Python 3.12 it swallows a cancellation that comes together with the
result, and a loop that was told to end goes on for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
#: What the threads of `apart` are busy with.
_busy: set[str] = set()


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


async def apart(seconds: float, key: str, work: Callable[[], T]) -> T:
    """The result of *work* in a thread of its own, which is left behind after *seconds*. Error: asyncio.TimeoutError.

    For files that may be on a network file system that is away. A few of these would else take all worker threads, which every
    write to the disk needs. Work with the *key* of a thread that was left behind and still hangs fails at once.
    """
    if key in _busy:
        raise asyncio.TimeoutError
    _busy.add(key)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  handed to the caller
            failure = error
        _busy.discard(key)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        threading.Thread(target=run, name="apart", daemon=True).start()
    except BaseException:
        _busy.discard(key)
        raise
    return await within(seconds, done)
