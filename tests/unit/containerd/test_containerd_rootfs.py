# SPDX-License-Identifier: Apache-2.0
"""Reading a file through the layers of a root file system, as the kernel's overlay would show it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pycm.containerd import rootfs
from pycm.containerd.proto.types_pb2 import Mount
from pycm.errors import OperationFailedError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("top", "low"):
        (tmp_path / name / "etc").mkdir(parents=True)
    (tmp_path / "low/etc/passwd").write_bytes(b"low")
    return tmp_path / "top"


def read(top: Path, path: str, limit: int = 100) -> bytes | None:
    return rootfs.read_file([str(top), str(top.parent / "low")], path, limit)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def test_the_top_layer_wins_and_lower_ones_shine_through(top: Path) -> None:
    assert read(top, "/etc/passwd") == b"low"
    (top / "etc/passwd").write_bytes(b"top")
    assert read(top, "/etc/passwd") == b"top"
    assert read(top, "etc//./passwd") == b"top"
    assert read(top, "/etc/passwd", 2) == b"to"
    assert read(top, "/etc/passwd", 0) == b""


@pytest.mark.parametrize(
    "path", ["", "/", ".", "/etc", "/etc/none", "/none/passwd", "/etc/passwd/x", "/../etc/passwd", "/.."]
)
def test_what_is_no_regular_file_is_none(top: Path, path: str) -> None:
    assert read(top, path) is None


def test_a_whiteout_hides_a_file_and_a_directory(top: Path) -> None:
    whiteout(top / "etc/passwd")
    assert read(top, "/etc/passwd") is None
    (top / "etc/passwd").unlink()
    (top / "etc").rmdir()
    whiteout(top / "etc")
    assert read(top, "/etc/passwd") is None


def test_an_opaque_directory_hides_what_lies_below(top: Path) -> None:
    (top / "etc/group").write_bytes(b"g")
    os.setxattr(top / "etc", "user.overlay.opaque", b"y")
    assert read(top, "/etc/passwd") is None
    assert read(top, "/etc/group") == b"g"


@pytest.mark.parametrize("target", ["low/etc/passwd", "/etc/passwd"])
def test_links_are_not_followed_neither_to_files_nor_through_directories(top: Path, target: str) -> None:
    (top / "etc/passwd").symlink_to(target)
    assert read(top, "/etc/passwd") is None
    (top / "dir").symlink_to("/etc")
    (top.parent / "low/dir").mkdir()
    (top.parent / "low/dir/passwd").write_bytes(b"hidden by the link")
    assert read(top, "/dir/passwd") is None


def test_a_fifo_in_the_files_place_neither_blocks_nor_counts(top: Path) -> None:
    os.mkfifo(top / "etc/passwd")
    assert read(top, "/etc/passwd") is None


def test_a_layer_that_is_gone_is_an_error_in_one_line(top: Path) -> None:
    with pytest.raises(OperationFailedError, match=r"'/etc/passwd' in the root file system: No such file"):
        rootfs.read_file([str(top / "gone")], "/etc/passwd", 10)


def test_no_descriptor_stays_open(top: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/etc/passwd", "/etc/none", "/none/x"):
        read(top, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_directories_come_from_overlay_and_bind_mounts() -> None:
    overlay = Mount(
        type="overlay",
        source="overlay",
        options=["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b\\:c:/d"],
    )
    assert rootfs.layers([overlay]) == ["/u", "/a", "/b:c", "/d"]
    assert rootfs.layers([Mount(type="overlay", options=["lowerdir=/a:/b"])]) == ["/a", "/b"]
    assert rootfs.layers([Mount(type="bind", source="/s", options=["rbind", "rw"])]) == ["/s"]


@pytest.mark.parametrize("mounts", [[], [Mount(type="erofs")], [Mount(type="bind"), Mount(type="bind")]])
def test_other_mounts_are_refused_by_name(mounts: list[Mount]) -> None:
    with pytest.raises(OperationFailedError, match="only overlay and bind can be read"):
        rootfs.layers(mounts)
