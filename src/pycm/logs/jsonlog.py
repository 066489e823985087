# SPDX-License-Identifier: Apache-2.0
"""json.log with its older files json.log.1, json.log.2, ...: appended to, cut back, rotated before a write once it is full."""

from __future__ import annotations

import glob
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pycm.failpoints import fail_point
from pycm.storage.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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
        begin = max(position - BLOCK, 0)
        newline = os.pread(descriptor, position - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        position = begin
    return 0


#: Bytes written between two looks where the bound cannot be kept, and at least between any two.
AT_LEAST = 1024 * 1024
#: No container's minimum is below this.
LEAST_MINIMUM = 64 * 1024
_OURS = re.compile(r"json\.log(\.[0-9]{1,6})?")
log = logging.getLogger("pycm.logs")


class Found(NamedTuple):
    path: str
    size: int
    changed: float
    rotated: bool


class Quota:
    """*containers*: the directory that holds a directory for each container. *limit*: bytes; 0 for no bound. For one thread."""

    def __init__(self, containers: str, limit: int) -> None:
        self._containers = containers
        self._limit = limit
        #: Bytes that may be written before the next look. The first one waits until all that runs has been opened.
        self._left = AT_LEAST
        self._live: dict[str, LogFile] = {}
        self._elsewhere: set[str] = set()  # directories of logs with a root_dir, as far as they are known
        self._told = False

    def opened(self, path: str, file: LogFile) -> None:
        """The container of the log at *path* runs."""
        self._live[path] = file
        directory = os.path.dirname(path)
        if os.path.dirname(directory) != self._containers.rstrip("/"):
            self._elsewhere.add(directory)

    def closed(self, path: str) -> None:
        self._live.pop(path, None)

    def wrote(self, count: int) -> None:
        """*count* bytes have been appended to a log. Looks at the files if the bound may have been reached."""
        if self._limit <= 0:
            return
        self._left -= count
        if self._left <= 0:
            self._left = max(self._keep(), AT_LEAST)

    def rotated(self) -> None:
        """There is a file more that could go: the bound may be kept where it could not be before."""
        if self._told:
            self._left = 0

    def _keep(self) -> int:
        """Remove what is too much; the bytes that are free then."""
        files = list(self._files())
        over = sum(file.size for file in files) - self._limit
        if over > 0 and not self._told:
            self._told = True
            log.warning(
                "the logs of all containers together have reached their limit of %d bytes: from now on the oldest rotated files"
                " are removed",
                self._limit,
            )
        for file in _removable(files, self._live):
            if over <= 0:
                break
            with suppress(OSError):
                os.unlink(file.path)
                over -= file.size
        if over > 0:
            self._rotate_early(files, over)
        return -over

    def _rotate_early(self, files: Iterable[Found], over: int) -> None:
        minimum = max(self._limit // (4 * max(len(self._live), 1)), LEAST_MINIMUM)
        live = [file for file in files if file.path in self._live and file.size > minimum]
        for file in sorted(live, key=lambda file: -file.size):
            if over <= 0:
                break
            self._live[file.path].rotate_early()
            over -= file.size

    def _files(self) -> Iterator[Found]:
        below = glob.glob(os.path.join(glob.escape(self._containers), "*", "json.log*"))
        others = [os.path.join(directory, "json.log") for directory in sorted(self._elsewhere)]
        for path in [*below, *(found for other in others for found in glob.glob(glob.escape(other) + "*"))]:
            match = _OURS.fullmatch(os.path.basename(path))
            if match is None:
                continue
            with suppress(OSError):
                status = os.lstat(path)
                yield Found(path, status.st_size, status.st_mtime, bool(match[1]))


def _removable(files: Iterable[Found], live: Iterable[str]) -> list[Found]:
    """In the order in which they go."""
    kept = frozenset(live)
    candidates = [file for file in files if file.size and (file.rotated or file.path not in kept)]
    return sorted(candidates, key=lambda file: (not file.rotated, file.changed))


BLOCK = 256 * 1024
#: A message of the whole file ends with the first record that makes it bigger than this.
MESSAGE_BYTES = 3 * 1024 * 1024
#: gRPC's limit is 4 MiB a message: a record of a foreign file that would go beyond is cut.
RECORD_BYTES = 512 * 1024


def last_records(descriptors: Iterable[int], count: int) -> Iterator[str]:
    """The last *count* records, oldest first, without their newlines. *descriptors*: newest file first, taken as far as needed."""
    parts = []
    for descriptor in descriptors:
        begin, end, found = _tail_range(descriptor, count)
        parts.append((descriptor, begin, end))
        count -= found
        if count <= 0:
            break
    for part in _records_of(parts):
        yield part.rstrip(b"\n").decode("utf-8", "replace")


def all_records(descriptors: Iterable[int]) -> Iterator[str]:
    """Messages of whole records, oldest first, and a last one, which may be empty. *descriptors*: newest file first."""
    message = bytearray()
    parts = [(descriptor, 0, _tail_range(descriptor, 0)[1]) for descriptor in descriptors]
    for part in _records_of(parts):
        message += part
        if len(message) > MESSAGE_BYTES:
            yield message.decode("utf-8", "replace")
            message.clear()
    yield message.decode("utf-8", "replace")


def _records_of(parts: list[tuple[int, int, int]]) -> Iterator[bytes]:
    for descriptor, begin, end in reversed(parts):
        yield from _records(descriptor, begin, end)


def _tail_range(descriptor: int, count: int) -> tuple[int, int, int]:
    """Where the last *count* records begin and end, and how many there are; found from the end backwards."""
    position = os.fstat(descriptor).st_size
    end = -1
    left = count
    while position > 0:
        begin = max(position - BLOCK, 0)
        block = os.pread(descriptor, position - begin, begin)
        newline = len(block)
        while (newline := block.rfind(b"\n", 0, newline)) >= 0:
            if end < 0:
                end = begin + newline + 1
            elif (left := left - 1) == 0:
                return begin + newline + 1, end, count
            if count == 0:
                return end, end, 0
        position = begin
    return 0, max(end, 0), count - left + (end > 0)


def _records(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """Records from *begin* to *end*, each with its newline; overlong ones in pieces. Ends early if the file was cut."""
    rest = b""
    while begin < end:
        block = os.pread(descriptor, min(BLOCK, end - begin), begin)
        if not block:
            return
        begin += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(rest) > RECORD_BYTES:
            yield rest
            rest = b""
