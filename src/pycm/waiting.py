# SPDX-License-Identifier: Apache-2.0
"""Waiting with a limit, retry pauses, and groups of tasks.

`asyncio.wait_for` is not used: before Python 3.12 it swallows a cancellation that arrives together with the result, and
a loop that should end runs for ever.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")
#: Seconds that a look at a file may take; a longer one means that its file system hangs.
LOOK = 10.0
#: Keys of the running threads of `apart`, and the seconds between two looks at them.
_busy: set[str] = set()
_STEP = 0.01
#: `Backoff` shortens a pause by up to this fraction, so that a fleet does not reconnect in step.
JITTER = 0.25


class Backoff:
    """`next()` returns the seconds until the next attempt, doubled from `first` up to `cap`; `reset()` follows a
    success.
    """

    def __init__(self, cap: float, first: float = 1.0, chance: Callable[[], float] | None = None) -> None:
        from random import random  # slow to import, and unused by the command line

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
        """Whether the pauses have reached the cap."""
        return self._pause > self.cap


class Once:
    """Decide whether a lasting state of a subject is news, so that it is logged once and not at each attempt.

    `every`: seconds after which the same state is news again; None for never.
    """

    def __init__(self, every: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._known: dict[Hashable, tuple[object, float]] = {}

    def is_new(self, state: object = True, subject: Hashable = None) -> bool:  # noqa: FBT002  any value
        """Remember *state*; True if it differs from the last one of *subject*, or if that one is too old."""
        now = self._clock()
        known = self._known.get(subject)
        if known and known[0] == state and (self._every is None or now < known[1] + self._every):
            return False
        self._known[subject] = state, now
        return True

    def clear(self, subject: Hashable = None) -> bool:
        """Forget the state of *subject*; True if there was one, whose end is news then."""
        return self._known.pop(subject, None) is not None


async def together(*works: Awaitable[T]) -> list[T]:
    """Run *works* side by side and return their results in order.

    The first failure, or a cancellation, cancels the others; it is raised when all have ended.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel(*tasks)


async def cancel(*tasks: asyncio.Future[T] | None) -> None:
    """Cancel *tasks*, and wait until all have ended. Their errors are dropped."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Return the result of *work*, which is cancelled after *seconds* (None: never), or with its caller.

    Error: asyncio.TimeoutError.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        await cancel(task)
        raise
    if not done:
        await cancel(task)
        if task.cancelled():
            raise asyncio.TimeoutError
    return task.result()


async def apart(key: str, work: Callable[[], T], seconds: float = LOOK) -> T:
    """Return the result of *work* in its own thread, which is abandoned after *seconds*. Error: asyncio.TimeoutError.

    For files that may lie on a network file system which hangs: a few of them would occupy all worker threads, which
    every write to the disk needs. There is one thread a *key*; further work with that key waits for it, even if it was
    abandoned.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while key in _busy:
        if loop.time() >= deadline:
            raise asyncio.TimeoutError
        await asyncio.sleep(_STEP)
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled, and the thread may always end it

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  raised in the caller
            _busy.discard(key)
            done.set_exception(error)
        else:
            _busy.discard(key)
            done.set_result(result)

    _busy.add(key)
    try:
        threading.Thread(target=run, name="apart", daemon=True).start()
    except BaseException:
        _busy.discard(key)
        raise
    return await within(seconds, asyncio.wrap_future(done))
