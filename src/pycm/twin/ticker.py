# SPDX-License-Identifier: Apache-2.0
"""A timer that keeps to the times which follow from its first; periods that were slept through are left out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Ticker:
    """`set` a period in seconds, or None; *tick* is called after each."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._period = self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, period: float | None, *, resume: bool = False) -> None:
        """*resume*: keep to the times from before an interruption. Else a period that is often interrupted would never end."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if period is not None:
            if not resume or period != self._period:
                self._since = asyncio.get_running_loop().time()
            self._period = period
            self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        periods = 1 + max(0.0, loop.time() - self._since) // self._period
        self._timer = loop.call_at(self._since + periods * self._period, self._due)

    def _due(self) -> None:
        assert self._timer is not None
        self._since = self._timer.when()
        self._schedule()
        self._tick()
