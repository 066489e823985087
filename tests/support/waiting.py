# SPDX-License-Identifier: Apache-2.0
"""Wait for what a test asserts: a machine under load runs tasks, threads and processes later than any pause expects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 60.0
"""Seconds after which a wait fails; no test needs them on a machine that works."""


async def until(condition: Callable[[], object]) -> None:
    """Poll *condition* until it holds; raise TimeoutError after LIMIT seconds."""

    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), LIMIT)
