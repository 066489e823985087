# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in the moment in which a child is started: the child runs already, and the code that would end it is not
reached yet.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupt_held() -> Iterator[Callable[[], None]]:
    """Keep SIGINT back until the yielded function is called, which raises what came meanwhile: inside the `try` that
    ends the child.

    The signal is not blocked: a child would inherit that. Main thread only.
    """
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    held = True

    def release() -> None:
        nonlocal held
        held = False
        signal.signal(signal.SIGINT, before)
        if noted:
            signal.raise_signal(signal.SIGINT)

    try:
        yield release
    finally:
        if held:
            release()
