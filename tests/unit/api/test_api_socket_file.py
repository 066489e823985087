# SPDX-License-Identifier: Apache-2.0
"""The socket as a file: modes, left-overs of an earlier agent, and what is left alone."""

import os
import socket
import stat
from pathlib import Path

import pytest

from pycm.api.server import SocketFile
from pycm.errors import ConfigError, ConflictError


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def made(path: Path) -> SocketFile:
    found = SocketFile(str(path))
    found.socket.close()
    return found


def test_directory_and_socket_have_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    before = os.umask(0o777)
    try:
        file = SocketFile(str(path))
    finally:
        os.umask(before)
    assert (mode(path.parent), mode(path)) == (0o711, 0o660)
    with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
        early.connect(str(path))
    file.socket.close()


def test_an_existing_directory_gets_the_mode_too_but_not_one_that_is_shared(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.mkdir(0o755)
    shared.mkdir()
    shared.chmod(0o1777)
    made(own / "s")
    made(shared / "s")
    assert (mode(own), mode(shared)) == (0o711, 0o777 | stat.S_ISVTX)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    before = path.stat().st_ino, path.stat().st_mtime_ns
    made(path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) != before


def test_a_socket_that_somebody_serves_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(ConflictError, match="is an agent running already"):
            SocketFile(str(path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists but is not a socket"):
        SocketFile(str(path))
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="exists but is not a socket"):
        SocketFile(str(link))
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_refused_with_the_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than the 107 bytes"):
        SocketFile(str(tmp_path / ("x" * 107)))


def test_removing_spares_the_socket_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = SocketFile(str(path))
    path.unlink()
    second = SocketFile(str(path))
    first.remove()
    assert path.exists()
    second.remove()
    assert not path.exists()
    second.remove()
    first.socket.close()
    second.socket.close()
