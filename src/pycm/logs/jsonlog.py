# SPDX-License-Identifier: Apache-2.0
"""json.log and its rotated files json.log.1, json.log.2, …: appended and rotated, bounded together, read back."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pycm.errors import NotFoundError, OperationFailedError
from pycm.failpoints import fail_point
from pycm.storage.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Bytes that are read at a time.
BLOCK = 256 * 1024
log = logging.getLogger("pycm.logs")


# ── appended to and rotated ─────────────────────────────────────────────────────────────────────────────────────────


class Target(NamedTuple):
    """A container's log: the live file, the size at which it is rotated, and the number of all its files."""

    path: str
    max_size: int
    max_files: int


class LogFile:
    """json.log, open for appending. `size` is its valid part. `open` truncates what a failed append left beyond it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._descriptor = -1
        self.size = self.device = self.inode = 0
        self._early = False

    def open(self, device: int = 0, inode: int = 0, size: int = 0) -> None:
        """Open or create the file. Truncate it to *size* if the identity matches, else after its last newline."""
        self.close()
        directory = os.path.dirname(self._target.path)
        if not os.path.isdir(directory):
            os.makedirs(directory, 0o711)
        self._descriptor = open_regular(self._target.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        status = os.fstat(self._descriptor)
        known = (status.st_dev, status.st_ino) == (device, inode) and size <= status.st_size
        self.device, self.inode = status.st_dev, status.st_ino
        self.size = size if known else _tail_range(self._descriptor, 0)[1]
        if self.size < status.st_size:
            os.ftruncate(self._descriptor, self.size)

    @property
    def full(self) -> bool:
        return self.size >= self._target.max_size or (self._early and self.size > 0)

    def rotate_early(self) -> None:
        """Make the next write find the file full."""
        self._early = True

    @property
    def room(self) -> int:
        """Bytes until the file is full, at least 1: an empty file takes one record whatever its limit is."""
        return max(self._target.max_size - self.size, 1)

    def append(self, records: bytes) -> None:
        """Write all of *records*. After an OSError the file has to be opened again."""
        written = os.write(self._descriptor, records)
        while written < len(records):  # no room for all: the next write says why
            written += os.write(self._descriptor, memoryview(records)[written:])
        self.size += len(records)

    def rotate(self) -> None:
        """Rename the older files up and begin a new one. With one file in total, empty it."""
        self._early = False
        if self._target.max_files <= 1:
            os.ftruncate(self._descriptor, 0)
            self.size = 0
            return
        path = self._target.path
        # Only up to the first free number: the limit may be in the millions, and all containers wait for this thread.
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


# ── bounded together ────────────────────────────────────────────────────────────────────────────────────────────────

#: Bytes written between two scans where the limit cannot be kept, and at least between any two scans.
AT_LEAST = 1024 * 1024
#: No container's share is below this.
LEAST_MINIMUM = 64 * 1024
_OURS = re.compile(r"json\.log(\.[0-9]{1,6})?")


class Found(NamedTuple):
    path: str
    size: int
    changed: float
    rotated: bool


class Quota:
    """A limit for the logs of all containers together, because the limits of each may add up to more than a device's
    flash.

    At the limit, files are removed in this order until the rest fits: rotated files, the oldest first, then logs of
    containers that do not run, the oldest first. Then the live files of running containers are rotated early, the
    biggest first, if they are above the minimum (a fair share of the limit). Nothing here wakes up by itself: writes
    are counted, and the files are scanned when the count says that the limit may be reached.

    *containers*: the directory with a directory for each container. *limit*: bytes, 0 for none. Only one thread may use
    it.
    """

    def __init__(self, containers: str, limit: int) -> None:
        self._containers = containers
        self._limit = limit
        #: Bytes that may be written before the next scan. The first scan comes after all running containers are opened.
        self._left = AT_LEAST
        self._live: dict[str, LogFile] = {}
        self._elsewhere: set[str] = set()  # directories of logs with a root_dir, as far as they are known
        self._reached = False

    def opened(self, path: str, file: LogFile) -> None:
        """The container of the log at *path* runs."""
        self._live[path] = file
        directory = os.path.dirname(path)
        if os.path.dirname(directory) != self._containers.rstrip("/"):
            self._elsewhere.add(directory)

    def closed(self, path: str) -> None:
        self._live.pop(path, None)

    def wrote(self, count: int) -> None:
        """*count* bytes were appended to a log: scan the files if the limit may be reached."""
        if self._limit <= 0:
            return
        self._left -= count
        if self._left <= 0:
            self._left = max(self._enforce(), AT_LEAST)

    def rotated(self) -> None:
        """One more file can be removed: the limit may be kept where it could not be before."""
        if self._reached:
            self._left = 0

    def _enforce(self) -> int:
        """Remove what is beyond the limit, and return the bytes that are free then."""
        files = list(self._files())
        over = sum(file.size for file in files) - self._limit
        if over > 0 and not self._reached:
            self._reached = True
            text = "logs of all containers: limit of %d bytes reached (the oldest rotated files are removed)"
            log.warning(text, self._limit)
        for file in self._removable(files):
            if over <= 0:
                break
            with suppress(OSError):
                os.unlink(file.path)
                over -= file.size
        if over > 0:
            self._rotate_early(files, over)
        return -over

    def _removable(self, files: Iterable[Found]) -> list[Found]:
        """In the order of removal."""
        candidates = [file for file in files if file.size and (file.rotated or file.path not in self._live)]
        return sorted(candidates, key=lambda file: (not file.rotated, file.changed))

    def _rotate_early(self, files: Iterable[Found], over: int) -> None:
        minimum = max(self._limit // (4 * max(len(self._live), 1)), LEAST_MINIMUM)
        live = [file for file in files if file.path in self._live and file.size > minimum]
        for file in sorted(live, key=lambda file: -file.size):
            if over <= 0:
                break
            self._live[file.path].rotate_early()
            over -= file.size

    def _files(self) -> Iterator[Found]:
        patterns = [os.path.join(glob.escape(self._containers), "*", "json.log*")]
        patterns += [
            os.path.join(glob.escape(directory), "json.log*") for directory in sorted(self._elsewhere)
        ]
        for path in itertools.chain.from_iterable(map(glob.glob, patterns)):
            match = _OURS.fullmatch(os.path.basename(path))
            if match is None:
                continue
            with suppress(OSError):
                status = os.lstat(path)
                yield Found(path, status.st_size, status.st_mtime, bool(match[1]))


# ── read back ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: Files of one log that are read: all are open at the same time.
MOST_READ = 100
#: Records in one batch, so that few calls of a worker thread are needed.
RECORDS_A_CALL = 64
#: A message of the whole log ends with the first record that makes it bigger than this.
MESSAGE_BYTES = 3 * 1024 * 1024
#: gRPC's limit for a message is 4 MiB: a record of a foreign file that would exceed it is split.
RECORD_BYTES = 512 * 1024


class LogReader:
    """The last *tail* records of a log of at most *files* files; with a negative *tail* all of it, in big messages.
    Blocking.

    It reads blocks, never a whole file. What follows the last newline is a record that is being written or that a power
    cut tore; it is left out.
    """

    def __init__(self, path: str, files: int, tail: int) -> None:
        self._path = path
        self._opened = [_open_log(path)]
        newest_first = self._descriptors(min(files, MOST_READ))
        self._messages = _last_records(newest_first, tail) if tail >= 0 else _all_records(newest_first)
        self._batch = RECORDS_A_CALL if tail >= 0 else 1

    def batch(self) -> list[str]:
        """The next messages, oldest first, [] at the end: single records, or many with their newlines."""
        try:
            return list(itertools.islice(self._messages, self._batch))
        except OSError as error:
            raise OperationFailedError(f"cannot read {self._path}: {error.strerror}") from error

    def close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)

    def _descriptors(self, files: int) -> Iterator[int]:
        """The live file, then older ones while the caller continues. A file that is renamed meanwhile comes once."""
        yield self._opened[0]
        seen = {_identity(self._opened[0])}
        for number in range(1, files):
            with suppress(NotFoundError, OperationFailedError):
                descriptor = _open_log(f"{self._path}.{number}")
                self._opened.append(descriptor)
                if _identity(descriptor) not in seen:
                    seen.add(_identity(descriptor))
                    yield descriptor


def _open_log(path: str) -> int:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise NotFoundError(f"log file not found {path}") from None  # compat
    except OSError as error:
        raise OperationFailedError(f"cannot read {path}: {error.strerror}") from error


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _last_records(newest_first: Iterable[int], count: int) -> Iterator[str]:
    parts = []
    for descriptor in newest_first:
        begin, end, found = _tail_range(descriptor, count)
        parts.append((descriptor, begin, end))
        count -= found
        if count <= 0:
            break
    for record in _records_of(parts):
        yield record.rstrip(b"\n").decode("utf-8", "replace")


def _all_records(newest_first: Iterable[int]) -> Iterator[str]:
    """Messages of whole records, and a last one, which may be empty."""
    message = bytearray()
    parts = [(descriptor, 0, _tail_range(descriptor, 0)[1]) for descriptor in newest_first]
    for record in _records_of(parts):
        message += record
        if len(message) > MESSAGE_BYTES:
            yield message.decode("utf-8", "replace")
            message.clear()
    yield message.decode("utf-8", "replace")


def _records_of(parts: list[tuple[int, int, int]]) -> Iterator[bytes]:
    for descriptor, begin, end in reversed(parts):
        yield from _records(descriptor, begin, end)


def _tail_range(descriptor: int, count: int) -> tuple[int, int, int]:
    """Where the last *count* records begin and end, and how many they are. Searched from the end backwards."""
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
    """Records from *begin* to *end*, with their newlines, overlong ones in pieces. Ends where the file does."""
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
