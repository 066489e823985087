# SPDX-License-Identifier: Apache-2.0
"""Read one file of a container's root file system from its snapshot's directories, without mounting anything.

A mount would need a directory, privileges and an unmount on every path, only to read /etc/passwd. This module searches
the directories of an overlay as the kernel does, top layer first: a character device 0/0 or an opaque directory hides
what is below. Every step is relative to an open directory. Links are resolved here and never by the kernel: absolute
links and ".." start at the root file system, as after chroot, so that no image can point outside. Directories that were
renamed inside the container (overlayfs' "redirect") are not followed.
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
#: Links on a path, as in the kernel; and directories on a path, each of which is opened in every layer.
_MOST_LINKS, _MOST_STEPS = 40, 4096
_WHITEOUT = os.makedev(0, 0)
# fmt: off
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link",
}
# fmt: on
_SEPARATOR = re.compile(r"(?<!\\):")  # overlayfs: "\:" is a colon inside a path


class SpecialFileError(OperationFailedError):
    """Something else is in the place of a regular file. Opening it may block for ever, as with a FIFO."""


def list_layers(mounts: Sequence[Mount]) -> list[str]:
    """Return the directories of a snapshot, top first.

    OperationFailedError for snapshotters that do not mount directories.
    """
    if len(mounts) == 1 and mounts[0].type == "bind":
        return [mounts[0].source]
    if len(mounts) == 1 and mounts[0].type == "overlay":
        options = dict(option.partition("=")[::2] for option in mounts[0].options)
        lower = [path.replace("\\:", ":") for path in _SEPARATOR.split(options.get("lowerdir", "")) if path]
        return [options["upperdir"], *lower] if options.get("upperdir") else lower
    kinds = ", ".join(mount.type for mount in mounts) or "nothing"
    raise OperationFailedError(
        f"the root file system is mounted as {shorten(kinds)}, expected overlay or bind"
    )


def read_file(directories: Iterable[str], path: str, limit: int) -> bytes | None:
    """Return at most *limit* bytes of the regular file at *path*, None if nothing is there. Blocks: for a worker
    thread.

    SpecialFileError for anything else in the file's place. OperationFailedError for loops of links, for links out of
    the root to nothing inside it, and for files that cannot be read.
    """
    try:
        with ExitStack() as opened:
            root = [_open_directory(directory, None, opened) for directory in directories]
            place = _Place(root)
            opened.callback(place.close)
            return _walk(place, path, limit)
    except OSError as error:
        raise OperationFailedError(f"{shorten(path)} in the root file system: {error.strerror}") from None


def _walk(place: _Place, path: str, limit: int) -> bytes | None:
    names = _parts(path)
    links, clamped = 0, False
    while names:
        name = names.pop(0)
        if name == "..":
            clamped = clamped or not place.names
            place.go_to(place.names[:-1])
            continue
        directory, mode = _find(place.stack, name)
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(name, dir_fd=directory)
            names[:0] = _parts(target)
            if target.startswith("/"):
                place.go_to([])
        elif mode and not names:
            return _read_regular(directory, name, path, limit)
        elif stat.S_ISDIR(mode):
            place.enter(name)
        elif clamped:
            raise OSError(errno.EXDEV, "a symbolic link leads out of it")
        else:
            return None
    raise _special(path, stat.S_IFDIR)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _open_directory(name: str, inside: int | None, opened: ExitStack) -> int:
    descriptor = os.open(name, _DIRECTORY, dir_fd=inside)
    opened.callback(os.close, descriptor)
    return descriptor


class _Place:
    """The position of a walk: a directory, as one descriptor for each layer, top first.

    `..` starts again at the root.
    """

    def __init__(self, root: list[int]) -> None:
        self._root = root
        self._opened = ExitStack()
        self._steps = 0
        self.names: list[str] = []
        self.stack = root

    def enter(self, name: str) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise OSError(errno.ELOOP, "too many directories on the path")
        with ExitStack() as opened:
            stack = _descend(self.stack, name, opened)
            self.close()
            self._opened = opened.pop_all()
        self.stack = stack
        self.names.append(name)

    def go_to(self, names: list[str]) -> None:
        self.close()
        self.stack, self.names = self._root, []
        for name in names:
            self.enter(name)

    def close(self) -> None:
        self._opened.close()


def _descend(stack: Iterable[int], name: str, opened: ExitStack) -> list[int]:
    """Open the directories called *name* in all layers, down to the first thing that hides the rest."""
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


def _find(stack: Iterable[int], name: str) -> tuple[int, int]:
    """Return the directory whose entry *name* is visible, and its mode: 0 if there is none, or a whiteout hides it."""
    for directory in stack:
        info = _stat(directory, name)
        if info is not None:
            hidden = stat.S_ISCHR(info.st_mode) and info.st_rdev == _WHITEOUT
            return directory, 0 if hidden else info.st_mode
    return -1, 0


def _read_regular(directory: int, name: str, path: str, limit: int) -> bytes:
    """Check the type before opening, which may have effects, and again when open: a container may have replaced the
    file.
    """
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(info.st_mode):
        raise _special(path, info.st_mode)
    descriptor = os.open(name, _FILE, dir_fd=directory)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _special(path, mode)
        data = b""
        while len(data) < limit and (more := file.read(limit - len(data))):
            data += more
        return data


def _special(path: str, mode: int) -> SpecialFileError:
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    return SpecialFileError(f"{shorten(path)} in the root file system is {kind}, expected a regular file")


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
