# SPDX-License-Identifier: Apache-2.0
"""Pulls that are under way: whoever asks for the same image shares one, which ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pycm.errors import UnavailableError
from pycm.ports import PullProgress, PullStep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Listener = Callable[[PullProgress], None]
    Work = Callable[[str, Listener], Awaitable[None]]


class _Pull:
    def __init__(self, reference: str, work: Work) -> None:
        self.last = PullProgress(reference, PullStep.QUEUED)
        self.listeners: list[Listener] = []
        self.waiting = 0
        self.task = asyncio.ensure_future(work(reference, self._tell))

    def _tell(self, progress: PullProgress) -> None:
        self.last = progress
        for listener in tuple(self.listeners):
            listener(progress)


class Pulls:
    """*work*: pulls a reference and tells how it goes."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._running: dict[str, _Pull] = {}
        self._closed = False

    async def pull(self, reference: str, listener: Listener | None = None) -> None:
        pull = self._running.get(reference)
        while pull is not None and not pull.waiting:  # it was given up and is about to end
            await asyncio.wait({pull.task})
            pull = self._running.get(reference)
        if self._closed:
            raise self._ending(reference)
        if pull is None:
            pull = self._running[reference] = _Pull(reference, self._work)
            pull.task.add_done_callback(lambda _: self._running.pop(reference))
        await self._wait(pull, listener)

    async def _wait(self, pull: _Pull, listener: Listener | None) -> None:
        pull.waiting += 1
        if listener is not None:
            listener(pull.last)
            pull.listeners.append(listener)
        try:
            await asyncio.shield(pull.task)
        except asyncio.CancelledError:
            if self._closed and pull.task.cancelled():
                raise self._ending(pull.last.reference) from None
            raise
        finally:
            pull.waiting -= 1
            if listener is not None:
                pull.listeners.remove(listener)
            if not pull.waiting:
                pull.task.cancel()

    @staticmethod
    def _ending(reference: str) -> UnavailableError:
        return UnavailableError(
            f"the agent ends: the pull of {reference} is given up, the next one goes on from there"
        )

    async def close(self) -> None:
        self._closed = True
        tasks = [pull.task for pull in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
