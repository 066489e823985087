# SPDX-License-Identifier: Apache-2.0
"""The FIFOs between containerd's shim and the agent: made fresh for each run, 1 MiB each, opened, removed.

1 MiB is as much as an unprivileged user may ask for: so much output is kept while no agent runs, by the shim as long as the
container runs, then by its keeper.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import stat
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.ports import TaskIO
from pycm.storage.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_NAMES = ("stdin", "stdout", "stderr")
log = logging.getLogger("pycm.logs")


def make(directory: str, *, terminal: bool, stdin: bool) -> TaskIO:
    """Fresh FIFOs in *directory*, whose earlier content is removed."""
    wanted = {"stdin": stdin, "stdout": True, "stderr": not terminal}
    try:
        remove_all(directory)
        os.makedirs(directory, 0o700)
        for name in _NAMES:
            if wanted[name]:
                os.mkfifo(os.path.join(directory, name), 0o600)
    except OSError as error:
        raise OperationFailedError(f"cannot make FIFOs in {directory}: {error.strerror}") from error
    return find(directory, terminal=terminal)


def find(directory: str, *, terminal: bool = False) -> TaskIO:
    """The FIFOs there are in *directory*."""
    paths = {name: os.path.join(directory, name) for name in _NAMES}
    there = {name: path if os.path.exists(path) else "" for name, path in paths.items()}
    return TaskIO(stdin=there["stdin"], stdout=there["stdout"], stderr=there["stderr"], terminal=terminal)


def open_output(path: str) -> int:
    """A descriptor to read *path* from, without waiting for a writer. OSError if there is no such FIFO."""
    descriptor = _open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_BYTES)
    except OSError as error:
        log.warning("%s keeps less than 1 MiB while no agent runs: %s", path, error.strerror)
    # A pipe hangs up only for a reader that has seen a writer: having been one ourselves, poll tells at any time if there are any.
    os.close(_open(path, os.O_WRONLY))
    return descriptor


def open_input(path: str) -> int:
    """A descriptor that keeps the container's stdin from ending; nothing is written to it."""
    return _open(path, os.O_RDWR)


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a FIFO", path)
    return descriptor


def waiting(descriptor: int) -> int:
    """Bytes that wait in the FIFO."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def remove(root: str, io: TaskIO) -> None:
    """Remove the FIFOs of *io*, which another manager may have made, and their directory, if they are below *root*."""
    for path in filter(None, (io.stdin, io.stdout, io.stderr)):
        directory = os.path.dirname(path)
        if os.path.realpath(directory).startswith(os.path.realpath(root) + os.sep):
            _quietly(os.unlink, path)
            _quietly(os.rmdir, directory)


def _quietly(function: Callable[[str], None], path: str) -> None:
    """What is gone already, or still in use by a brother, needs nothing."""
    with suppress(OSError):
        function(path)


def remove_all(directory: str) -> None:
    end_keeper(directory)
    shutil.rmtree(directory, ignore_errors=True)


#: 68 years; not every sleep knows "infinity".
_SLEEP = ("sleep", "2147483647")
_PID_FILE = "keeper"
#: Number of the keeper's first descriptor, and of copies on the way there, beyond all that are about to be used.
_FIRST, _ABOVE = 3, 64
log = logging.getLogger("pycm.logs")


def start_keeper(directory: str, descriptors: Collection[int]) -> None:
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


def renew_keeper(directory: str, descriptors: Collection[int]) -> None:
    """Let the keeper of *directory*, if it has one, hold *descriptors* only."""
    if os.path.exists(os.path.join(directory, _PID_FILE)):
        end_keeper(directory)
        start_keeper(directory, descriptors)


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


def end_keeper(directory: str) -> None:
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


def end_keepers(fifo_root: str) -> None:
    """End the keepers of all containers below *fifo_root*: for those who take an agent's directories away under it."""
    with suppress(FileNotFoundError):
        for name in os.listdir(fifo_root):
            end_keeper(os.path.join(fifo_root, name))
