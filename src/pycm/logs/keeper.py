# SPDX-License-Identifier: Apache-2.0
"""Who holds a container's FIFOs open while no agent runs.

The content of a FIFO lives as long as somebody has it open. The shim does while the container runs, and lets go when it ends: the
last words of a container that ends while no agent runs would be gone, and a container with an open stdin would see its end when
the agent goes. So each container has a keeper, a sleeping process that holds the descriptors and does nothing else (some 100 KiB).
It is ended when the output has been read.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.storage.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Collection

#: 68 years; not every sleep knows "infinity".
_SLEEP = ("sleep", "2147483647")
_PID_FILE = "keeper"
#: Number of the keeper's first descriptor, and of copies on the way there, beyond all that are about to be used.
_FIRST, _ABOVE = 3, 64
log = logging.getLogger("pycm.logs")


def start(directory: str, descriptors: Collection[int]) -> None:
    """Start the keeper of the FIFOs in *directory*. Without one only those last words are at risk: failures are logged."""
    program = shutil.which(_SLEEP[0], path="/usr/bin:/bin")
    if program is None:
        log.warning("no sleep program: output of a container that ends while no agent runs may be lost")
        return
    copies: list[int] = []
    try:
        copies.extend(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for descriptor in descriptors)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(open_regular(os.path.join(directory, _PID_FILE), flags), "w", encoding="ascii") as file:
            file.write(str(_spawn(program, copies)))
    except OSError as error:
        log.warning("no keeper for %s: %s", directory, error.strerror)
    finally:
        for copy in copies:
            os.close(copy)


def renew(directory: str, descriptors: Collection[int]) -> None:
    """Let the keeper of *directory*, if it has one, hold *descriptors* only."""
    if os.path.exists(os.path.join(directory, _PID_FILE)):
        end(directory)
        start(directory, descriptors)


def _spawn(program: str, descriptors: list[int]) -> int:
    """In a session of its own, so that a Ctrl-C for the agent does not reach it; nothing else is inherited.

    SIGTERM is the only signal that ends it: a machine that shuts down sends it to all, and others may reach all of a unit's
    processes too (`systemctl kill`).
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(_FIRST)
    ]
    actions += [(os.POSIX_SPAWN_DUP2, fd, _FIRST + index) for index, fd in enumerate(descriptors)]
    end = (signal.SIGTERM,)
    return os.posix_spawn(
        program,
        _SLEEP,
        {},
        file_actions=actions,
        setsid=True,
        setsigdef=end,
        setsigmask=signal.valid_signals().difference(end),
    )


def end(directory: str) -> None:
    """End the keeper of *directory*, if the process is really it: its descriptor leads there."""
    try:
        with open(open_regular(os.path.join(directory, _PID_FILE)), encoding="ascii") as file:
            pid = int(file.read())
        target = os.readlink(f"/proc/{pid}/fd/{_FIRST}")
    except (OSError, ValueError):
        return
    if os.path.dirname(target) == os.path.realpath(directory):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # an earlier agent's keeper is not this one's child
            os.waitpid(pid, 0)


def end_all(fifo_root: str) -> None:
    """End the keepers of all containers below *fifo_root*: for those who take an agent's directories away under it."""
    with suppress(FileNotFoundError):
        for name in os.listdir(fifo_root):
            end(os.path.join(fifo_root, name))
