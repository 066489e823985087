# SPDX-License-Identifier: Apache-2.0
"""Keepers of FIFOs, for tests that take an agent's directories away."""

from __future__ import annotations

import os
from contextlib import suppress

from pycm.logs.fifos import end_keeper


def end_keepers(fifo_root: str) -> None:
    """End the keepers of all containers below *fifo_root*."""
    with suppress(FileNotFoundError):
        for name in os.listdir(fifo_root):
            end_keeper(os.path.join(fifo_root, name))
