# SPDX-License-Identifier: Apache-2.0
"""Durable writes, reads that cannot hang, and state files.

After a power cut a file holds its old or its new content, never a part of it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any, TypeVar

from pycm.errors import PycmError
from pycm.failpoints import fail_point

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

T = TypeVar("T")
#: Suffix of half-written files; those that a power cut left behind are ignored and replaced.
TEMPORARY = ".tmp"
#: Suffix of files that were damaged and set aside.
DAMAGED = ".damaged"


def write_atomic(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a temporary file, fsync, rename, and fsync the directory. OSError on failure: then the old file is
    untouched.
    """
    temporary = path + TEMPORARY
    discard(temporary)  # whatever it is: opening a FIFO would wait
    try:
        descriptor = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fail_point("storage.before-rename")
        os.rename(temporary, path)
    except OSError:
        discard(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def open_regular(path: str, flags: int = os.O_RDONLY, mode: int = 0o600, *, follow: bool = False) -> int:
    """Return a descriptor of a regular file. OSError at once for anything else: a FIFO would wait for its other end.

    *follow*: whether *path* itself may be a symbolic link.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_regular(path)
    return descriptor


def read_regular(path: str, limit: int, *, follow: bool = False) -> bytes:
    """Return at most *limit* bytes. OSError as `open_regular`."""
    with open(open_regular(path, follow=follow), "rb") as file:
        return file.read(limit)


def check_regular(path: str) -> None:
    """Check a file that a library will open by name. OSError if it is not a regular file, or a link to one."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise not_regular(path)


def not_regular(path: str) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: str) -> None:
    """Make names that were created, renamed or removed in *path* durable. OSError if it cannot be opened or synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: str) -> None:
    """Remove a file that may be missing or may not be removable; it does no harm where it is."""
    try:
        os.unlink(path)
    except OSError:
        pass


def make_directory(path: str, mode: int = 0o711) -> None:
    """Make *path* and its parents; *path* itself gets *mode* even if it existed, as the original does.

    A correct directory is not touched, so that an agent can start on a disk that has become read-only.
    """
    os.makedirs(path, exist_ok=True)
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)


class StateFile:
    """A JSON file of the agent's own. Blocking: call it in a worker thread.

    The agent works without the file: a failure is logged. `loss` says what a lost file means, for instance "images
    count as new". `limit`: bytes that are read at most. `directory_mode`: make the directory before a write. An empty
    path stands for no file.
    """

    def __init__(
        self,
        path: str,
        log: logging.Logger,
        *,
        limit: int,
        loss: str,
        mode: int = 0o600,
        directory_mode: int | None = None,
    ) -> None:
        self.path = path
        self._log = log
        self._limit = limit
        self._loss = loss
        self._mode = mode
        self._directory_mode = directory_mode
        self._content = b""

    def read(self, parse: Callable[[Any], T], default: T) -> T:
        """Return what *parse* makes of the JSON value in the file, or *default* without a usable file.

        *parse* may raise ValueError, TypeError, LookupError, AttributeError, OverflowError or PycmError: then the file
        is damaged, and set aside.
        """
        from pycm.model import gojson  # imports json, which not all users of this module need

        try:
            data = read_regular(self.path, self._limit + 1)
            if len(data) > self._limit:
                raise ValueError(f"more than {self._limit} bytes")
            found = parse(gojson.read(data))
        except FileNotFoundError:
            return default
        except OSError as error:
            self._log.warning("%s: cannot be read: %s (%s)", self.path, error.strerror, self._loss)
            return default
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, PycmError) as error:
            set_aside(self.path, error, self._log, self._loss)
            return default
        self._content = data
        return found

    def write(self, value: Any) -> bool:
        """As `save`, but log a failure and return False."""
        try:
            self.save(value)
        except OSError as error:
            self._log.warning("%s: cannot be written: %s", self.path, error.strerror)
            return False
        return True

    def save(self, value: Any) -> None:
        """Write *value*, unless the file holds it already. OSError on failure."""
        from pycm.model import gojson

        data = gojson.dumps(value).encode()
        if not self.path or data == self._content:
            return
        if self._directory_mode is not None:
            make_directory(os.path.dirname(self.path), self._directory_mode)
        write_atomic(self.path, data, self._mode)
        self._content = data


def set_aside(path: str, reason: object, log: logging.Logger, loss: str, level: int = 30) -> None:
    """Rename a damaged file, so that a person can look at it and the next write does not destroy it."""
    log.log(level, "%s: damaged: %s (kept as %s; %s)", path, reason, path + DAMAGED, loss)
    try:
        os.replace(path, path + DAMAGED)
    except OSError as failure:
        log.warning("%s: cannot be renamed: %s", path, failure.strerror)
