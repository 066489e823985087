# SPDX-License-Identifier: Apache-2.0
"""Places at which a test can kill the process, as a power cut would.

PYCM_FAIL_POINT=logs.after-append:3 kills the process when it reaches the point "logs.after-append" for the third time.
Without the variable, a fail point is an empty function.
"""

from __future__ import annotations

import os
import signal

_NAME, _, _COUNT = os.environ.get("PYCM_FAIL_POINT", "").partition(":")
_left = int(_COUNT) if _COUNT.isdigit() else 1


def fail_point(name: str) -> None:
    """Kill the process here if the environment says so."""


def _armed(name: str) -> None:
    global _left  # noqa: PLW0603  one counter for one process that is about to die
    if name == _NAME:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


if _NAME:
    fail_point = _armed
