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
#: Seconds that a file may take to be looked at; more means that its file system hangs.
LOOK = 10.0
#: What the threads of `apart` are busy with, and seconds between looks at it.
_busy: set[str] = set()
_STEP = 0.01
#: A pause of `Backoff` is cut by up to this part of it, so that a fleet does not return in step.
JITTER = 0.25


class Backoff:
    """`next()` gives the pause in seconds before the next attempt, doubled from `first` up to `cap`; `reset()` after a success."""

    def __init__(self, cap: float, first: float = 1.0, chance: Callable[[], float] | None = None) -> None:
        from random import random  # slow to import; the command line has no use for it

        self.cap = cap
        self._first = self._pause = first
        self._chance = chance or random

    def next(self) -> float:
        pause = min(self._pause, self.cap)
        self._pause = pause * 2
        return pause * (1 - JITTER * self._chance())

    def reset(self) -> None:
        self._pause = self._first

    @property
    def is_longest(self) -> bool:
        """The pauses do not grow any more."""
        return self._pause > self.cap


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


async def apart(key: str, work: Callable[[], T], seconds: float = LOOK) -> T:
    """The result of *work* in a thread of its own, which is left behind after *seconds*. Error: asyncio.TimeoutError.

    For files that may be on a network file system that is away. A few of these would else take all worker threads, which every
    write to the disk needs. There is one thread a *key*: further work waits for it as long, also where it was left behind.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while key in _busy:
        if loop.time() >= deadline:
            raise asyncio.TimeoutError
        await asyncio.sleep(_STEP)
    _busy.add(key)
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
