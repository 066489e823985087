# SPDX-License-Identifier: Apache-2.0
"""The agent's own log: where it is written, and the form of a line.

A line is `time="2024-05-01T10:00:00.123456Z" level=info msg="..." room=mqtt`, and always one line. The log file has
priority over syslog, syslog over standard output. A log that cannot be opened never keeps the agent from starting,
since containers matter more: one line on standard error reports it, and standard output is used.

The log file has mode 0600 and is rotated by size to `<name>-<local time>.log.gz`; old ones are removed by number and
age. Compressing takes a device up to a second, so a thread does it. No handler buffers: one line is one write. On a
full disk lines are lost; the agent continues, and writes again as soon as there is space.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING

from pycm.flags import quote
from pycm.storage.files import not_regular

if TYPE_CHECKING:
    from logging.handlers import DatagramHandler

    from pycm.config.types import Log

TRACE = 5
LEVELS = {
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": TRACE,
}
#: Level -> the word in a line, and syslog's severity.
_WORDS = {
    logging.CRITICAL: ("fatal", 2),
    logging.ERROR: ("error", 3),
    logging.WARNING: ("warning", 4),
    logging.INFO: ("info", 6),
    logging.DEBUG: ("debug", 7),
    TRACE: ("trace", 7),
}
_DAEMON = 3 << 3  # syslog's facility
MAX_LINE = 8192  # characters of a message; a longer one is cut
_ROOT = "pycm"
_STDOUT = 1
TAG = "container-management"  # the name of the agent in syslog and for journalctl -t
SYSLOG = "/dev/log"

MEGABYTE = 1024 * 1024
_DAY = 24 * 3600
#: Values for 0: of the size as in the original, of the count a bound, since every file of ours has one.
DEFAULT_SIZE = 100
MOST_FILES = 1000
_STAMP = r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.(?P<number>\d{1,9}))?"


def setup(log: Log) -> None:
    """Send the log of all rooms where *log* says; may be called again. Never raises for a log that cannot be opened."""
    logger = logging.getLogger(_ROOT)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    handler, warning = _open(log)
    handler.setFormatter(LineFormatter())
    logger.addHandler(handler)
    logger.setLevel(LEVELS.get(log.log_level, logging.INFO))
    logger.propagate = False
    if warning:
        logger.warning("%s", warning)


def _open(log: Log) -> tuple[logging.Handler, str]:
    """The handler, and a warning or ""."""
    try:
        if log.log_file:
            warning = "log.syslog has no effect since log.log_file is set" if log.syslog else ""
            return RotatingFile(log), warning
        if log.syslog:
            return open_syslog(SYSLOG), ""
    except OSError as error:
        text = f"cannot log to {log.log_file or SYSLOG}: {error.strerror}; logging to standard output instead"
        print(f"Error: {text}", file=sys.stderr)
        return Output(), text
    return Output(), ""


class LineFormatter(logging.Formatter):
    """One line a record, with the traceback of a bug in it."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += ": " + self.formatException(record.exc_info)
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        microseconds = int(record.created % 1 * 1_000_000)
        room = record.name.partition(".")[2]
        line = (
            f'time="{seconds}.{microseconds:06d}Z" level={_words(record)[0]} msg={quote(message, MAX_LINE)}'
        )
        return f"{line} room={room}" if room else line


def _words(record: logging.LogRecord) -> tuple[str, int]:
    return next((words for least, words in _WORDS.items() if record.levelno >= least), _WORDS[TRACE])


class Output(logging.Handler):
    """Standard output. When its reader is gone, lines are dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            os.write(_STDOUT, self.line(record))

    def line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "replace")


def open_syslog(path: str) -> DatagramHandler:
    """The local syslog. A line that it does not accept at once is dropped, so that the agent never waits. OSError."""
    import socket
    from logging.handlers import DatagramHandler  # brings pickle and queue along

    class Syslog(DatagramHandler):
        def makeSocket(self) -> socket.socket:  # type: ignore[override]  # noqa: N802
            made = super().makeSocket()
            made.setblocking(False)
            return made

        def makePickle(self, record: logging.LogRecord) -> bytes:  # noqa: N802  what is sent
            severity = _DAEMON | _words(record)[1]
            return f"<{severity}>{TAG}: {self.format(record)}".encode("utf-8", "replace")

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
            """Drop the line: syslog was stopped, or its queue is full."""

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.connect(path)
    return Syslog(path, None)


class RotatingFile(Output):
    """The log file. OSError if it cannot be opened; later failures lose the line, and the first is reported on standard
    error.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._path = os.path.abspath(log.log_file)
        self._limit = (log.log_file_size or DEFAULT_SIZE) * MEGABYTE
        self._count = log.log_file_count or MOST_FILES
        self._age = log.log_file_max_age * _DAY
        self._failed = False
        self._worker: threading.Thread | None = None
        os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        self._file = _open_file(self._path)
        self._size = os.fstat(self._file).st_size

    def emit(self, record: logging.LogRecord) -> None:
        data = self.line(record)
        try:
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            self._size += os.write(self._file, data)
            self._failed = False
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._failed and sys.stderr is not None:
            print(f"Error: cannot write to the log {self._path}: {error.strerror}", file=sys.stderr)
        self._failed = True

    def _rotate(self) -> None:
        """Rename the full file now; a worker compresses it and removes old ones."""
        with contextlib.suppress(FileNotFoundError):  # somebody removed it
            os.rename(self._path, _free_name(self._path))
        fresh = _open_file(self._path)
        os.close(self._file)
        self._file, self._size = fresh, 0
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._tidy, name="log-rotation", daemon=True)
            self._worker.start()

    def _tidy(self) -> None:
        try:
            tidy(self._path, self._count, self._age)
        except OSError as error:
            self._report(error)

    def wait(self, seconds: float) -> None:
        """Wait until the last rotation is done, at most *seconds*."""
        if self._worker is not None:
            self._worker.join(seconds)

    def close(self) -> None:
        self.wait(5)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()


def _open_file(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # neither renamed nor chmod'ed: it may be /dev/null
        os.close(descriptor)
        raise not_regular(path)
    os.fchmod(descriptor, 0o600)  # an existing file may be readable for others
    return descriptor


def _free_name(path: str) -> str:
    """A name with the local time, and a number for further rotations in the same second."""
    stem, suffix = os.path.splitext(path)
    base = f"{stem}-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    names = (f"{base}{'.' + str(i) if i else ''}{suffix}" for i in range(MOST_FILES))
    free = (name for name in names if not os.path.exists(name) and not os.path.exists(name + ".gz"))
    return next(free, base + suffix)


def tidy(path: str, count: int, age: float) -> None:
    """Remove rotated files of *path* beyond *count* and older than *age* seconds (0: any), compress the others."""
    kept = 0
    now = time.time()
    for name in list_rotated(path):
        if kept >= count or (age and now - os.stat(name).st_mtime > age):
            os.unlink(name)
            continue
        kept += 1
        if not name.endswith(".gz"):
            _compress(name)


def list_rotated(path: str) -> list[str]:
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
    """Write "<name>.gz", also over one that a crash left unfinished. The age stays that of the last line."""
    import gzip
    import shutil

    status = os.stat(name)
    part = name + ".part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(name, "rb") as source, open(descriptor, "wb") as raw, gzip.open(raw, "wb") as target:
        shutil.copyfileobj(source, target)
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(part, name + ".gz")
    os.unlink(name)
