# SPDX-License-Identifier: Apache-2.0
"""Mounts in the machine's own namespace, by system calls alone.

Changes run in a thread of their own that ends with them: a thread that has entered another namespace must not serve
others. A unit with a hardened view of the file system would otherwise mount and unmount for itself only.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pycm.failpoints import fail_point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 2, 4, 8, 0x1000
_OUR_MOUNTS = "/proc/self/ns/mnt"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_CONNECT = 5.0  # seconds
#: The mounts of process 1 and our own, which are the same without a hardened view.
_TABLES = ("/proc/1/mountinfo", "/proc/self/mountinfo")
log = logging.getLogger("pycm.storage")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def mounted_below(directory: str) -> list[str]:
    """The mount points below *directory*, an absolute path without links, as far as they are readable."""
    found: dict[str, None] = {}
    for path in _TABLES:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for line in file:
                point = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), line.split()[4])
                if (place := os.fsdecode(point)).startswith(directory + "/"):
                    found[place] = None
    return list(found)


def cover(files: Mapping[str, bytes], staging: str, size: str) -> None:
    """Mount a file of this content over each path, all on one new tmpfs of at most *size*. After an OSError nothing is
    mounted.

    *staging*: a directory that does not exist; the tmpfs is mounted there until only the files hold it.
    """
    os.makedirs(staging, 0o700, exist_ok=True)
    try:
        options = f"size={size},nr_inodes={len(files) + 2},mode=700".encode()
        system_call(
            "mount", b"tmpfs", staging.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options
        )
        for number, (path, content) in enumerate(files.items()):
            source = os.path.join(staging, str(number))
            with open(source, "xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(content)
            system_call("mount", source.encode(), path.encode(), None, _MS_BIND, None)
            fail_point("storage.covered")
    except BaseException:
        uncover(tuple(files))
        raise
    finally:
        try:
            unmount(staging)
        finally:
            os.rmdir(staging)


def uncover(paths: Sequence[str]) -> None:
    """Unmount everything on each path. A failure is raised after the other paths."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.callback(unmount, path)


def unmount(path: str) -> int:
    """Unmount all mounts on *path*, even if they are in use, and return their number. OSError."""
    count = 0
    while True:
        try:
            system_call("umount2", path.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
            return count
        count += 1


def see_as_init(directory: str) -> None:
    """Enter the mount namespace of process 1 if *directory* is the same there."""
    see_as(1, directory)


def see_as_server(address: str, directory: str) -> None:
    """Enter the mount namespace of the process that listens at the Unix socket *address*, if possible; see see_as."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(_CONNECT)
            client.connect(address)
            pid, _, _ = _CREDENTIALS.unpack(
                client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        see_as(pid, directory)
    except OSError:
        pass  # nobody listens, or the rights are missing


def see_as(pid: int, directory: str) -> None:
    """Enter the mount namespace of process *pid* if *directory* is the same there. For a thread that ends soon.
    OSError.
    """
    try:
        theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # it may belong to another user
    try:
        if os.path.samestat(os.stat(_OUR_MOUNTS), os.fstat(theirs)):
            return
        before = os.stat(directory)
        back = os.open(_OUR_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            system_call("unshare", _CLONE_FS)
            system_call("setns", theirs, _CLONE_NEWNS)
            if not _is(directory, before):
                system_call("setns", back, _CLONE_NEWNS)
        finally:
            os.close(back)
    finally:
        os.close(theirs)


def _is(directory: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(directory), wanted)
    except OSError:
        return False


def system_call(name: str, *arguments: int | bytes | None) -> None:
    """Call a function of the C library that returns -1 and sets errno on failure: then OSError."""
    import ctypes  # 0.5 MiB, for those who mount

    library = ctypes.CDLL(None, use_errno=True)
    converted = [
        ctypes.c_ulong(argument) if isinstance(argument, int) and name == "mount" else argument
        for argument in arguments
    ]
    if getattr(library, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def in_own_thread(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1, "mounts") as thread:
        thread.submit(work).result()


def unmount_snapshots(home_dir: str) -> None:
    """Unmount the file systems that Kanto mounts a second time for itself, at <home_dir>/overlayfs/<container>/rootfs.

    Nothing reads them, and they keep the space of removed containers occupied until the machine restarts. Failures are
    logged.
    """
    base = os.path.join(os.path.realpath(home_dir), "overlayfs")
    try:
        places = [entry.path for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return  # Kanto was never here
    in_own_thread(lambda: _unmount_all(base, places))


def _unmount_all(base: str, places: list[str]) -> None:
    see_as_init(base)
    for place in places:
        path = os.path.join(place, "rootfs")
        try:
            if unmount(path):
                log.info("%s: unmounted: Kanto left it mounted", path)
        except OSError as error:
            log.warning("%s: cannot be unmounted, Kanto left it mounted: %s", path, error.strerror)
            continue
        for directory in (path, place):
            with contextlib.suppress(OSError):  # gone, or not empty
                os.rmdir(directory)
