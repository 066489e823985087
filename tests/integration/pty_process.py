# SPDX-License-Identifier: Apache-2.0
"""A program on a terminal of its own, as a user at a keyboard has it.

with PtyProcess([...]) as shell:
    shell.type("echo hello\\n")
    shell.until("hello")
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

WAIT = 120.0


class PtyProcess:
    def __init__(self, command: Sequence[str], *, columns: int = 80, rows: int = 24) -> None:
        self.master, self.slave = os.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def __enter__(self) -> PtyProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str) -> str:
        """Read until *text* has come; what came up to it. The next call begins after it."""
        deadline = time.monotonic() + WAIT
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come, but {self.seen!r}"
            if not self._take(min(left, 0.1)):
                assert self.process.poll() is None, f"ended without {text!r}: {self.seen!r}"
        end = self.seen.index(text) + len(text)
        seen, self.seen = self.seen[:end], self.seen[end:]
        return seen

    def wait(self) -> int:
        """The exit code; output is read on, since a full terminal would make it wait."""
        deadline = time.monotonic() + WAIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end: {self.seen!r}"
            self._take(0.05)
        while self._take(0):
            pass
        return self.process.returncode

    def _take(self, seconds: float) -> bool:
        ready = bool(select.select([self.master], [], [], seconds)[0])
        if ready:
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        return ready

    @property
    def raw(self) -> bool:
        """Whether keys go to the program as they are."""
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
