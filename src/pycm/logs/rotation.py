# SPDX-License-Identifier: Apache-2.0
"""json.log with its older files json.log.1, json.log.2, ...: appended to, cut back, rotated before a write once it is full."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from pycm.failpoints import fail_point
from pycm.storage.files import open_regular

_BLOCK = 64 * 1024


@dataclass(frozen=True)
class Target:
    """Where a container's output goes: the live file, its size at which it is rotated, how many files there are in total."""

    path: str
    max_size: int
    max_files: int


class LogFile:
    """Open for appending. `size` is what belongs to it: what a killed or failed append left beyond is cut off at the next `open`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._descriptor = -1
        self.size = self.device = self.inode = 0
        self._early = False

    def open(self, device: int = 0, inode: int = 0, size: int = 0) -> None:
        """Make or open the file. It ends at *size* if it is the file these say, else at its last newline."""
        self.close()
        directory = os.path.dirname(self._target.path)
        if not os.path.isdir(directory):
            os.makedirs(directory, 0o711)
        self._descriptor = open_regular(self._target.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        status = os.fstat(self._descriptor)
        known = (status.st_dev, status.st_ino) == (device, inode) and size <= status.st_size
        self.device, self.inode = status.st_dev, status.st_ino
        self.size = size if known else _end_of_last_line(self._descriptor, status.st_size)
        if self.size < status.st_size:
            os.ftruncate(self._descriptor, self.size)

    @property
    def full(self) -> bool:
        return self.size >= self._target.max_size or (self._early and self.size > 0)

    def rotate_early(self) -> None:
        """The next write finds the file full."""
        self._early = True

    @property
    def room(self) -> int:
        """Bytes until it is full; at least one record goes into an empty file, whatever the limit."""
        return max(self._target.max_size - self.size, 1)

    def append(self, records: bytes) -> None:
        """All of it, or an OSError; then the file has to be opened again."""
        written = os.write(self._descriptor, records)
        while written < len(records):  # no room for all: the next write says why
            written += os.write(self._descriptor, memoryview(records)[written:])
        self.size += len(records)

    def rotate(self) -> None:
        """Shift the older files up and begin a new one; with one file in total, empty it."""
        self._early = False
        if self._target.max_files <= 1:
            os.ftruncate(self._descriptor, 0)
            self.size = 0
            return
        path = self._target.path
        # up to the first number that is free: there may be millions that are allowed, and all containers wait for this thread
        last = self._target.max_files - 1
        free = next((number for number in range(1, last) if not os.path.lexists(f"{path}.{number}")), last)
        for number in range(free, 1, -1):
            with suppress(FileNotFoundError):
                os.rename(f"{path}.{number - 1}", f"{path}.{number}")
        with suppress(FileNotFoundError):
            os.rename(path, f"{path}.1")
        fail_point("logs.after-rename")
        self.open()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _end_of_last_line(descriptor: int, size: int) -> int:
    """Length of the file without a torn last line, such as a power cut leaves."""
    position = size
    while position > 0:
        begin = max(position - _BLOCK, 0)
        newline = os.pread(descriptor, position - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        position = begin
    return 0
