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
        self._period = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, period: float | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if period is not None:
            self._period = period
            self._timer = asyncio.get_running_loop().call_later(period, self._due)

    def _due(self) -> None:
        assert self._timer is not None
        loop = asyncio.get_running_loop()
        was_due = self._timer.when()
        periods = 1 + max(0.0, loop.time() - was_due) // self._period
        self._timer = loop.call_at(was_due + periods * self._period, self._due)
        self._tick()
