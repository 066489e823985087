# SPDX-License-Identifier: Apache-2.0
"""The FIFOs between containerd's shim and the agent, and the keepers that hold them open while no agent runs.

Each run of a container gets new FIFOs of 1 MiB, which is as much as an unprivileged user may request. So much output is
kept while no agent runs. The content of a FIFO exists as long as a process has it open. The shim does while the
container runs, and closes it when the container ends. A keeper prevents two losses while no
agent runs: the last output of a container that ends, and the open stdin of a container that continues. It is a
sleeping process that holds the descriptors and does nothing else (about 100 KiB). It is killed when the output has
been read.
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
    from collections.abc import Collection

PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_NAMES = ("stdin", "stdout", "stderr")
log = logging.getLogger("pycm.logs")


def make(directory: str, *, terminal: bool, stdin: bool) -> TaskIO:
    """Create new FIFOs in *directory*, whose earlier content is removed."""
    wanted = {"stdin": stdin, "stdout": True, "stderr": not terminal}
    try:
        remove_all(directory)
        os.makedirs(directory, 0o700)
        for name in _NAMES:
            if wanted[name]:
                os.mkfifo(os.path.join(directory, name), 0o600)
    except OSError as error:
        raise OperationFailedError(f"cannot create FIFOs in {directory}: {error.strerror}") from error
    return find(directory, terminal=terminal)


def find(directory: str, *, terminal: bool = False) -> TaskIO:
    """The FIFOs that *directory* has."""
    paths = {name: os.path.join(directory, name) for name in _NAMES}
    found = {name: path if os.path.exists(path) else "" for name, path in paths.items()}
    return TaskIO(stdin=found["stdin"], stdout=found["stdout"], stderr=found["stderr"], terminal=terminal)


class Opened:
    """Descriptors of a task's FIFOs: outputs by stream number, and a held stdin. `error`: what could not be opened."""

    def __init__(self, io: TaskIO) -> None:
        self.io = io
        self.outputs: dict[int, int] = {}
        self.held: tuple[int, ...] = ()
        self.error = ""
        try:
            for stream, path in enumerate((io.stdout, io.stderr)):
                if path:
                    self.outputs[stream] = open_output(path)
            if io.stdin:
                self.held = (open_input(io.stdin),)
        except OSError as error:
            self.error = f"cannot open {error.filename}: {error.strerror}"

    def close(self) -> None:
        for descriptor in (*self.outputs.values(), *self.held):
            os.close(descriptor)
        self.outputs, self.held = {}, ()


def open_output(path: str) -> int:
    """A descriptor for reading *path*, without waiting for a writer. OSError if it is not a FIFO."""
    descriptor = _open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_BYTES)
    except OSError as error:
        log.warning(
            "%s: cannot get 1 MiB: %s (less output is kept while no agent runs)", path, error.strerror
        )
    # A pipe reports a hang-up only to a reader that has seen a writer. After one writer, poll always knows whether
    # there are any.
    os.close(_open(path, os.O_WRONLY))
    return descriptor


def open_input(path: str) -> int:
    """A descriptor that keeps the container's stdin open. Nothing is written to it."""
    return _open(path, os.O_RDWR)


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a FIFO", path)
    return descriptor


def waiting(descriptor: int) -> int:
    """Number of bytes in the FIFO."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def remove(root: str, io: TaskIO) -> None:
    """Remove the FIFOs of *io*, which another manager may have made, and their directory, if they are below *root*."""
    for path in filter(None, (io.stdin, io.stdout, io.stderr)):
        directory = os.path.dirname(path)
        if os.path.realpath(directory).startswith(os.path.realpath(root) + os.sep):
            with suppress(OSError):  # gone already
                os.unlink(path)
            with suppress(OSError):  # gone already, or another FIFO is still in it
                os.rmdir(directory)


def remove_all(directory: str) -> None:
    end_keeper(directory)
    shutil.rmtree(directory, ignore_errors=True)


# ── keepers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#: 68 years, because not every sleep accepts "infinity".
_SLEEP = ("sleep", "2147483647")
_PID_FILE = "keeper"
#: The keeper's first descriptor, and the lowest number of copies on the way there, above all that are about to be used.
_FIRST, _ABOVE = 3, 64


def start_keeper(directory: str, descriptors: Collection[int]) -> None:
    """Start the keeper of the FIFOs in *directory*. Failures are only logged: they risk a container's last output."""
    program = shutil.which(_SLEEP[0], path="/usr/bin:/bin")
    if program is None:
        log.warning(
            "%s: no sleep program (output of a container that ends while no agent runs may be lost)",
            directory,
        )
        return
    copies: list[int] = []
    try:
        copies.extend(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for descriptor in descriptors)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(open_regular(os.path.join(directory, _PID_FILE), flags), "w", encoding="ascii") as file:
            file.write(str(_spawn(program, copies)))
    except OSError as error:
        text = (
            "%s: cannot start a keeper: %s (output of a container that ends while no agent runs may be lost)"
        )
        log.warning(text, directory, error.strerror)
    finally:
        for copy in copies:
            os.close(copy)


def renew_keeper(directory: str, descriptors: Collection[int]) -> None:
    """Make the keeper of *directory*, if it has one, hold only *descriptors*."""
    if os.path.exists(os.path.join(directory, _PID_FILE)):
        end_keeper(directory)
        start_keeper(directory, descriptors)


def _spawn(program: str, descriptors: list[int]) -> int:
    """Start the process in its own session, so that Ctrl-C in the agent's terminal does not reach it. It inherits
    nothing else.

    Only SIGTERM ends it, which a shutdown sends to all processes. Others may reach all processes of a unit (`systemctl
    kill`).
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
    """Kill the keeper of *directory*, if the process is the keeper: its first descriptor is a file in *directory*."""
    try:
        with open(open_regular(os.path.join(directory, _PID_FILE)), encoding="ascii") as file:
            pid = int(file.read())
        target = os.readlink(f"/proc/{pid}/fd/{_FIRST}")
    except (OSError, ValueError):
        return
    if os.path.dirname(target) == os.path.realpath(directory):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # the keeper of an earlier agent is not a child of this one
            os.waitpid(pid, 0)
