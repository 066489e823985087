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
import stat
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.logs import keeper
from pycm.ports import TaskIO

if TYPE_CHECKING:
    from collections.abc import Callable

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
    keeper.end(directory)
    shutil.rmtree(directory, ignore_errors=True)
