# SPDX-License-Identifier: Apache-2.0
"""The unix socket as a file: made with its mode before anyone can connect, removed at the end if it is still ours."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from pycm.errors import ConfigError, ConflictError

DIRECTORY_MODE = 0o711
SOCKET_MODE = 0o660
_MAX_PATH = 107  # sockaddr_un.sun_path without its final NUL


class SocketFile:
    """A bound socket that does not listen yet. Errors: ConfigError, ConflictError."""

    def __init__(self, path: str) -> None:
        self.path = path
        if len(os.fsencode(path)) > _MAX_PATH:
            raise ConfigError(
                f"grpc_server.address_path: {path!r} is longer than the {_MAX_PATH} bytes that a socket may have"
            )
        try:
            _prepare_directory(os.path.dirname(path) or ".")
            _remove_stale(path)
            self.socket = _bind(path)
            found = os.lstat(path)
        except OSError as error:
            raise ConfigError(
                f"grpc_server.address_path: no socket can be made at {path!r}: {error.strerror}"
            ) from None
        self._identity = found.st_dev, found.st_ino

    def remove(self) -> None:
        """Unlink the file unless somebody has put another in its place."""
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)


def _prepare_directory(path: str) -> None:
    """Mode 0711 as the original sets it, but not for a directory that is everyone's, such as /tmp or /run."""
    os.makedirs(path, DIRECTORY_MODE, exist_ok=True)
    shared = os.path.ismount(path) or os.stat(path).st_mode & stat.S_ISVTX
    if not shared:
        os.chmod(path, DIRECTORY_MODE)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"grpc_server.address_path: {path!r} exists and is no socket; it is left alone")
    if _answers(path):
        raise ConflictError(f"another process serves the socket {path!r}: is an agent running already?")
    os.unlink(path)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full: somebody listens
            return True
        except OSError:
            return False
        return True


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)  # nobody can connect before listen()
    except OSError:
        sock.close()
        raise
    return sock
