# SPDX-License-Identifier: Apache-2.0
"""One file of a container's root file system, read straight from its snapshot's directories, nothing mounted.

Mounting would need a directory, an unmount on every path and privileges, all to read /etc/passwd. Instead the directories of an
overlay are searched as the kernel does: top layer first; a character device 0/0 or an opaque directory hides what lies below. Every
step is relative to an open directory and follows no link, so that no image can point outside. (Directories that were renamed
inside the container, overlayfs' "redirect", are not followed.)
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pycm.containerd.proto.types_pb2 import Mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_SEPARATOR = re.compile(r"(?<!\\):")  # overlayfs: "\:" is a colon inside a path


def layers(mounts: Sequence[Mount]) -> list[str]:
    """The directories of a snapshot, top first. OperationFailedError for snapshotters whose mounts are no directories."""
    if len(mounts) == 1 and mounts[0].type == "bind":
        return [mounts[0].source]
    if len(mounts) == 1 and mounts[0].type == "overlay":
        options = dict(option.partition("=")[::2] for option in mounts[0].options)
        lower = [path.replace("\\:", ":") for path in _SEPARATOR.split(options.get("lowerdir", "")) if path]
        return [options["upperdir"], *lower] if options.get("upperdir") else lower
    kinds = ", ".join(mount.type for mount in mounts) or "nothing"
    raise OperationFailedError(
        f"the root file system is mounted as {shorten(kinds)}: only overlay and bind can be read"
    )


def read_file(directories: Iterable[str], path: str, limit: int) -> bytes | None:
    """At most *limit* bytes of the regular file at *path*, None if there is none. Blocks: for a worker thread."""
    *parents, name = [part for part in path.split("/") if part not in ("", ".")] or [""]
    if not name or ".." in (name, *parents):
        return None
    try:
        with ExitStack() as opened:
            stack = [_open_directory(directory, None, opened) for directory in directories]
            for parent in parents:
                stack = _descend(stack, parent, opened)
            return _read(stack, name, limit)
    except OSError as error:
        raise OperationFailedError(f"{shorten(path)} in the root file system: {error.strerror}") from None


def _open_directory(name: str, inside: int | None, opened: ExitStack) -> int:
    descriptor = os.open(name, _DIRECTORY, dir_fd=inside)
    opened.callback(os.close, descriptor)
    return descriptor


def _descend(stack: Iterable[int], name: str, opened: ExitStack) -> list[int]:
    """The directories called *name* that lie on top of each other, down to the first thing that hides the rest."""
    found: list[int] = []
    for directory in stack:
        info = _stat(directory, name)
        if info is None:
            continue
        if not stat.S_ISDIR(info.st_mode):
            break  # a whiteout, or a file or link in the directory's place
        found.append(_open_directory(name, directory, opened))
        if _is_opaque(found[-1]):
            break
    return found


def _read(stack: Iterable[int], name: str, limit: int) -> bytes | None:
    for directory in stack:
        info = _stat(directory, name)
        if info is not None:
            return _read_regular(directory, name, limit) if stat.S_ISREG(info.st_mode) else None
    return None


def _read_regular(directory: int, name: str, limit: int) -> bytes | None:
    """Checked again once open: a running container may have put something else in the file's place."""
    descriptor = os.open(name, _FILE, dir_fd=directory)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = b""
        while len(data) < limit and (more := file.read(limit - len(data))):
            data += more
        return data


def _stat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_opaque(directory: int) -> bool:
    for attribute in _OPAQUE:
        try:
            if os.getxattr(directory, attribute) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return False
