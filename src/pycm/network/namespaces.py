# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that live without a process: bound to a file, as `ip netns` does it, by system calls alone.

The file is bound where process 1, and so containerd, sees it, see `storage.mounts`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from pycm.errors import OperationFailedError
from pycm.storage.files import discard, make_directory
from pycm.storage.mounts import in_own_thread, see_as_init, system_call, unmount

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_OWN = "/proc/thread-self/ns/net"


def make(path: str) -> None:
    """Make a network namespace with a loopback that is up, and bind it to *path*. OperationFailedError, and nothing is left."""
    try:
        make_directory(os.path.dirname(path))
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise OperationFailedError(f"cannot make {path}: {error.strerror}") from error
    try:
        in_own_thread(lambda: _make(path))
    except OSError as error:
        discard(path)
        raise OperationFailedError(f"cannot make a network namespace at {path}: {error.strerror}") from error


def remove(path: str) -> None:
    """Let go of the namespace: with no process in it, it ends. What is gone already is no error."""
    try:
        in_own_thread(lambda: _remove(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OperationFailedError(f"cannot remove the network namespace {path}: {error.strerror}") from error


def names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:  # not there, or a place that cannot be used
        return []


def _make(path: str) -> None:
    see_as_init(os.path.dirname(path))
    system_call("unshare", _CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
    system_call("mount", _OWN.encode(), path.encode(), None, _MS_BIND, None)


def _remove(path: str) -> None:
    see_as_init(os.path.dirname(path))
    unmount(path)
    os.unlink(path)
