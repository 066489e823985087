# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that live without a process: bound to a file, as `ip netns` does it, by system calls alone.

Each of these functions runs in a thread of its own that ends with it: what a thread leaves (its mount namespace, its network) cannot
come back to others. The file is bound where process 1, and so containerd, sees it: a unit with a hardened view of the file system
would otherwise bind it for itself only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.storage.files import discard, make_directory

if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x200, 0x20000, 0x40000000
_MS_BIND, _MNT_DETACH, _UMOUNT_NOFOLLOW = 0x1000, 2, 8
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_OWN = "/proc/thread-self/ns/net"
_INIT_MOUNTS, _OUR_MOUNTS = "/proc/1/ns/mnt", "/proc/self/ns/mnt"


def make(path: str) -> None:
    """Make a network namespace with a loopback that is up, and bind it to *path*. OperationFailedError, and nothing is left."""
    try:
        make_directory(os.path.dirname(path))
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise OperationFailedError(f"cannot make {path}: {error.strerror}") from error
    try:
        _in_own_thread(lambda: _make(path))
    except OSError as error:
        discard(path)
        raise OperationFailedError(f"cannot make a network namespace at {path}: {error.strerror}") from error


def remove(path: str) -> None:
    """Let go of the namespace: with no process in it, it ends. What is gone already is no error."""
    try:
        _in_own_thread(lambda: _remove(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OperationFailedError(f"cannot remove the network namespace {path}: {error.strerror}") from error


def names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _make(path: str) -> None:
    _see_as_init(os.path.dirname(path))
    _call("unshare", _CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
    _call("mount", _OWN.encode(), path.encode(), None, _MS_BIND, None)


def _remove(path: str) -> None:
    _see_as_init(os.path.dirname(path))
    while True:  # one left-over may lie upon the other
        try:
            _call("umount2", path.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
            break
    os.unlink(path)


def _see_as_init(directory: str) -> None:
    """Enter the mount namespace of process 1, if *directory* is the same one there."""
    _call("unshare", _CLONE_FS)
    try:
        ours = os.stat(_OUR_MOUNTS)
        init = os.open(_INIT_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # process 1 may be somebody else's
    try:
        if os.path.samestat(ours, os.fstat(init)):
            return
        before = os.stat(directory)
        back = os.open(_OUR_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", init, _CLONE_NEWNS)
            if not _is(directory, before):
                _call("setns", back, _CLONE_NEWNS)
        finally:
            os.close(back)
    finally:
        os.close(init)


def _is(directory: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(directory), wanted)
    except OSError:
        return False


def _call(name: str, *arguments: int | bytes | None) -> None:
    """A function of the C library that returns -1 and sets errno on failure, which becomes an OSError."""
    import ctypes  # only those who use the bridge pay for it

    library = ctypes.CDLL(None, use_errno=True)
    converted = [
        ctypes.c_ulong(argument) if isinstance(argument, int) and name == "mount" else argument
        for argument in arguments
    ]
    if getattr(library, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_own_thread(work: Callable[[], None]) -> None:
    failures: list[Exception] = []

    def body() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  handed to the caller
            failures.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
