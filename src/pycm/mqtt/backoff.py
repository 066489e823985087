# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts to connect: doubled up to a cap, and shortened by chance so that a fleet does not return in step."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = 1.0
#: The product promises to be back within 10 s of the broker's return.
CAP = 8.0
#: A pause is cut by up to this part of it.
JITTER = 0.25


class Backoff:
    """`next()` gives the pause in seconds before the next attempt; `reset()` after a success."""

    def __init__(self, chance: Callable[[], float] = random) -> None:
        self._chance = chance
        self._pause = FIRST

    def next(self) -> float:
        pause = self._pause
        self._pause = min(CAP, pause * 2)
        return pause * (1 - JITTER * self._chance())

    def reset(self) -> None:
        self._pause = FIRST
