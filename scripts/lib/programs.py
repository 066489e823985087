# SPDX-License-Identifier: Apache-2.0
"""Start programs with their logs in one directory, wait until they are ready, and call short ones."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

START_LIMIT = 60.0
"""Seconds for each program to become ready."""


class ProgramError(Exception):
    """A program failed; the text is for the user and has the end of its log."""


class Programs:
    def __init__(self, place: Path) -> None:
        self.place = place

    def spawn(self, log: str, ready: Callable[[], bool], *command: str) -> None:
        """Start a program and wait until it is ready. In a session of its own: on Ctrl-C the demo ends all in the right
        order.
        """
        with (self.place / f"{log}.log").open("ab") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)  # fmt: skip
        limit = time.monotonic() + START_LIMIT
        while not ready():
            if process.poll() is not None:
                raise ProgramError(f"{log} ended with {process.returncode}:\n{self.tail(log)}")
            if time.monotonic() > limit:
                raise ProgramError(f"{log} was not ready within {START_LIMIT:.0f} s:\n{self.tail(log)}")
            time.sleep(0.1)

    def tail(self, log: str) -> str:
        path = self.place / f"{log}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-15:]) if path.exists() else ""


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False
    )  # fmt: skip


def program(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(Path(sys.executable).with_name(name))
