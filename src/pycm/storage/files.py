# SPDX-License-Identifier: Apache-2.0
"""Durable writes: after a power cut a file holds its old or its new content, never a part. And reads that cannot hang."""

from __future__ import annotations

import errno
import os
import stat

from pycm.failpoints import fail_point

#: Suffix of half-written files; left-overs of a cut are ignored and replaced.
TEMPORARY = ".tmp"


def write_atomic(path: str, data: bytes, mode: int = 0o644) -> None:
    """Temporary file, fsync, rename, fsync of the directory. OSError on failure: then the old file is untouched."""
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
    """Return a descriptor of a regular file. OSError for all else, at once: a FIFO would wait for its other end.

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
    """For files that a library opens by name. OSError if it is not a regular file, or a link to one."""
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
    """Remove a file that may not be there or may not be removable; it does no harm where it is."""
    try:
        os.unlink(path)
    except OSError:
        pass


def make_directory(path: str, mode: int = 0o711) -> None:
    """Make *path* and its parents; *path* itself gets *mode* even if it was there, as the original does.

    One that is as it should be is not touched, so that an agent can start on a disk that has become read-only.
    """
    os.makedirs(path, exist_ok=True)
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)
