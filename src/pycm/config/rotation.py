# SPDX-License-Identifier: Apache-2.0
"""The log file: 0600, rotated by size to `<name>-<local time>.log.gz`, old ones removed by number and age.

Compressing takes a device up to a second, so a thread does it; a line is written with one write and no flush to the disk. If the
disk is full, lines are lost, but the agent goes on and writes again as soon as there is room.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import re
import shutil
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycm.config.types import Log

MEGABYTE = 1024 * 1024
_DAY = 24 * 3600
#: What 0 means: for the size as in the original, for the count a bound, since every file of ours has one.
DEFAULT_SIZE = 100
MOST_FILES = 1000
_STAMP = r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.(?P<number>\d{1,9}))?"


class RotatingFile(logging.Handler):
    """Raises OSError if the file cannot be opened; later failures cost the line and are told once on standard error."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._path = os.path.abspath(log.log_file)
        self._limit = (log.log_file_size or DEFAULT_SIZE) * MEGABYTE
        self._count = log.log_file_count or MOST_FILES
        self._age = log.log_file_max_age * _DAY
        self._failed = False
        self._worker: threading.Thread | None = None
        os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        self._file = _open(self._path)
        self._size = os.fstat(self._file).st_size

    def emit(self, record: logging.LogRecord) -> None:
        data = (self.format(record) + "\n").encode("utf-8", "replace")
        try:
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            self._size += os.write(self._file, data)
            self._failed = False
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._failed and sys.stderr is not None:
            print(f"Error: cannot write to the log {self._path}: {error.strerror}", file=sys.stderr)
        self._failed = True

    def _rotate(self) -> None:
        """The full file gets its new name now; compressing and removing is the worker's."""
        with contextlib.suppress(FileNotFoundError):  # somebody removed it
            os.rename(self._path, _free_name(self._path))
        fresh = _open(self._path)
        os.close(self._file)
        self._file, self._size = fresh, 0
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._tidy, name="log-rotation", daemon=True)
            self._worker.start()

    def _tidy(self) -> None:
        try:
            tidy(self._path, self._count, self._age)
        except OSError as error:
            self._tell(error)

    def wait(self, seconds: float) -> None:
        """Until the last rotation is done, bounded."""
        if self._worker is not None:
            self._worker.join(seconds)

    def close(self) -> None:
        self.wait(5)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # neither renamed nor chmod'ed: it may be /dev/null
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    os.fchmod(descriptor, 0o600)  # one that was there may be readable for others
    return descriptor


def _free_name(path: str) -> str:
    """A name with the local time; with a number if there were two rotations in a second."""
    stem, suffix = os.path.splitext(path)
    base = f"{stem}-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    names = (f"{base}{'.' + str(i) if i else ''}{suffix}" for i in range(MOST_FILES))
    return next((name for name in names if not _taken(name)), base + suffix)


def _taken(name: str) -> bool:
    return os.path.exists(name) or os.path.exists(name + ".gz")


def tidy(path: str, count: int, age: float) -> None:
    """Remove rotated files of *path* beyond *count* and older than *age* seconds (0: any), compress the others."""
    kept = 0
    now = time.time()
    for name in rotated(path):
        if kept >= count or (age and now - os.stat(name).st_mtime > age):
            os.unlink(name)
            continue
        kept += 1
        if not name.endswith(".gz"):
            _compress(name)


def rotated(path: str) -> list[str]:
    """The rotated files of *path*, the newest first."""
    directory, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    ours = re.compile(re.escape(stem) + _STAMP + re.escape(suffix) + r"(\.gz)?")
    found = []
    for match in filter(None, map(ours.fullmatch, os.listdir(directory))):
        where = os.path.join(directory, match.group())
        found.append((os.stat(where).st_mtime_ns, int(match["number"] or 0), where))
    return [where for _, _, where in sorted(found, reverse=True)]


def _compress(name: str) -> None:
    """To "<name>.gz"; one that a crash left half done is written anew. The age stays that of the last line."""
    status = os.stat(name)
    part = name + ".part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(name, "rb") as source, open(descriptor, "wb") as raw, gzip.open(raw, "wb") as target:
        shutil.copyfileobj(source, target)
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(part, name + ".gz")
    os.unlink(name)
