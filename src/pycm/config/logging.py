# SPDX-License-Identifier: Apache-2.0
"""Where the log goes and how a line of it looks.

A line is `time="2024-05-01T10:00:00.123456Z" level=info msg="..." room=mqtt`; whatever happens it stays one line. It goes to the log
file, or without one to syslog or standard output. A log that cannot be opened never keeps the agent from starting: containers
matter more; an error is written to standard error, and the log goes to standard output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from pycm.config.rotation import RotatingFile
from pycm.flags import quote

if TYPE_CHECKING:
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
MAX_LINE = 8192  # characters of a message; what is beyond is cut
_ROOT = "pycm"
_STDOUT = 1
TAG = "container-management"  # what journalctl -t and syslog know the agent by
SYSLOG = "/dev/log"
_DAEMON = 3 << 3  # syslog's facility


def setup(log: Log) -> None:
    """Send the log of all rooms where *log* says; may be called again. Never raises for a log that cannot be opened."""
    logger = logging.getLogger(_ROOT)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    handler, warning = _open(log)
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
            return _formatted(RotatingFile(log)), warning
        if log.syslog:
            return _formatted(Syslog(SYSLOG)), ""
    except OSError as error:
        target = log.log_file or SYSLOG
        text = f"cannot log to {target}: {error.strerror}; logging to standard output instead"
        print(f"Error: {text}", file=sys.stderr)
        return _formatted(Output()), text
    return _formatted(Output()), ""


def _formatted(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(LineFormatter())
    return handler


class LineFormatter(logging.Formatter):
    """One line a record; the traceback of a bug, if there is one, is in it too."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += ": " + self.formatException(record.exc_info)
        return f'time="{_utc(record.created)}" level={word(record.levelno)} msg={_quoted(message)}{_room(record.name)}'


def _utc(seconds: float) -> str:
    microseconds = int(seconds % 1 * 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{microseconds:06d}Z"


def word(level: int) -> str:
    return _known(level)[0]


def _known(level: int) -> tuple[str, int]:
    return next((known for least, known in _WORDS.items() if level >= least), _WORDS[TRACE])


def _quoted(message: str) -> str:
    return quote(message, MAX_LINE)


def _room(logger: str) -> str:
    room = logger.partition(".")[2]
    return f" room={room}" if room else ""


class Output(logging.Handler):
    """Standard output, one write a line. When its reader is gone, lines are dropped: there is nobody to tell."""

    def emit(self, record: logging.LogRecord) -> None:
        data = (self.format(record) + "\n").encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            os.write(_STDOUT, data)  # not sys.stdout: after a failure that keeps what it could not write


class Syslog(logging.Handler):
    """The local syslog; a line that it does not take at once is dropped, so that the agent never waits for it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket = _connect(path)

    def emit(self, record: logging.LogRecord) -> None:
        severity = _known(record.levelno)[1]
        data = f"<{_DAEMON | severity}>{TAG}: {self.format(record)}".encode("utf-8", "replace")
        try:
            self._socket.send(data)
        except OSError:
            self._reconnect(data)

    def _reconnect(self, data: bytes) -> None:
        """syslog was restarted, or its queue is full."""
        try:
            fresh = _connect(self._path)
        except OSError:
            return
        self._socket.close()
        self._socket = fresh
        try:
            fresh.send(data)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
        super().close()


def _connect(path: str) -> socket.socket:
    fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        fresh.connect(path)
    except OSError:
        fresh.close()
        raise
    return fresh
