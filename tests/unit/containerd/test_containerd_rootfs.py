# SPDX-License-Identifier: Apache-2.0
"""Reading a file through the layers of a root file system, as the kernel's overlay would show it."""

from __future__ import annotations

import os
import resource
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pycm.containerd import rootfs
from pycm.containerd.proto.types_pb2 import Mount
from pycm.errors import OperationFailedError

if TYPE_CHECKING:
    from collections.abc import Callable
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


@pytest.mark.parametrize("path", ["/etc/none", "/none/passwd", "/etc/passwd/x", "/etc/passwd/../group"])
def test_read_file_returns_none_for_what_is_not_there(top: Path, path: str) -> None:
    assert read(top, path) is None


@pytest.mark.parametrize("path", ["", "/", ".", "/etc", "/etc/", "/etc/.."])
def test_read_file_refuses_a_directory(top: Path, path: str) -> None:
    with pytest.raises(rootfs.SpecialFileError, match="is a directory, expected a regular file"):
        read(top, path)


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


@pytest.mark.parametrize(
    "target",
    [
        "../nix/store/passwd",
        "/nix/store/passwd",
        "/nix/../nix/./store//passwd",
        "../../../../nix/store/passwd",
        "/../nix/store/passwd",
        "second",
        "/usr/etc/passwd",
    ],
)
def test_read_file_resolves_links_inside_the_root(top: Path, target: str) -> None:
    low = top.parent / "low"
    (low / "nix/store").mkdir(parents=True)
    (low / "nix/store/passwd").write_bytes(b"linked")
    (low / "etc/second").symlink_to("../nix/store/passwd")
    (top / "usr").symlink_to("/nix")
    (low / "nix/etc").symlink_to("store")
    (top / "etc/passwd").symlink_to(target)
    assert read(top, "/etc/passwd") == b"linked"


def test_read_file_resolves_a_linked_directory(top: Path) -> None:
    """As in Android's images: /etc is a link, and what a lower layer has below that name is hidden by it."""
    (top / "etc").rmdir()
    (top / "etc").symlink_to("/system/etc")
    assert read(top, "/etc/passwd") is None
    (top / "system/etc").mkdir(parents=True)
    (top / "system/etc/passwd").write_bytes(b"system")
    assert read(top, "/etc/passwd") == b"system"
    assert read(top, "/etc/../passwd") is None
    (top / "system/passwd").write_bytes(b"beside the target")
    assert read(top, "/etc/../passwd") == b"beside the target"


def test_read_file_resolves_links_through_the_layers(top: Path) -> None:
    """The target may lie in another layer than the link, below a whiteout or an opaque directory, which hide it."""
    low = top.parent / "low"
    (low / "data").mkdir()
    (low / "data/passwd").write_bytes(b"data")
    (top / "etc/passwd").symlink_to("/data/passwd")
    assert read(top, "/etc/passwd") == b"data"
    (top / "data").mkdir()
    assert read(top, "/etc/passwd") == b"data"
    os.setxattr(top / "data", "user.overlay.opaque", b"y")
    assert read(top, "/etc/passwd") is None
    (top / "data").rmdir()
    whiteout(top / "data")
    assert read(top, "/etc/passwd") is None
    (top / "data").unlink()
    (top / "etc/passwd").unlink()
    (low / "etc/group").symlink_to("passwd")
    (top / "etc/passwd").write_bytes(b"of the top layer")
    assert read(top, "/etc/group") == b"of the top layer"


def test_read_file_treats_a_dangling_link_as_missing(top: Path) -> None:
    (top / "etc/passwd").symlink_to("/run/made-at-start/passwd")
    assert read(top, "/etc/passwd") is None


def test_read_file_never_reads_a_file_of_the_host(top: Path) -> None:
    host = top.parent / "secret"
    host.write_bytes(b"secret")
    (top / "etc/passwd").symlink_to(host)
    assert read(top, "/etc/passwd") is None
    for target in ("../../secret", f"{'../' * 60}{str(host).lstrip('/')}", f"/..{host}"):
        (top / "etc/passwd").unlink()
        (top / "etc/passwd").symlink_to(target)
        with pytest.raises(OperationFailedError, match="a symbolic link leads out of it"):
            read(top, "/etc/passwd")


def chain(top: Path, links: int) -> None:
    (top / "etc/0").write_bytes(b"end")
    for number in range(links):
        (top / f"etc/{number + 1}").symlink_to(str(number))


def test_read_file_follows_as_many_links_as_the_kernel(top: Path) -> None:
    chain(top, 41)
    assert read(top, "/etc/40") == (top / "etc/40").read_bytes() == b"end"
    with pytest.raises(OperationFailedError, match="Too many levels of symbolic links"):
        read(top, "/etc/41")


@pytest.mark.parametrize("target", ["passwd", "/etc/passwd", "../etc/./passwd", "group"])
def test_read_file_refuses_a_loop(top: Path, target: str) -> None:
    (top / "etc/passwd").symlink_to(target)
    (top / "etc/group").symlink_to("passwd")
    with pytest.raises(OperationFailedError, match="Too many levels of symbolic links"):
        read(top, "/etc/passwd")


def test_read_file_bounds_the_directories_on_the_way(top: Path) -> None:
    """Links of thousands of directories each: neither does the walk take long nor does it keep more than one of them open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    (top / "a/b").mkdir(parents=True)
    (top / "0").symlink_to("etc/passwd")
    for number in range(30):
        (top / str(number + 1)).symlink_to("a/b/../../" * 400 + str(number))
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limit[1]))
    try:
        assert read(top, "/2") == b"low"
        with pytest.raises(OperationFailedError, match="too many directories on the path"):
            read(top, "/30")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def make_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def make_disk(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))


def make_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("place", ["etc/passwd", "linked"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_fifo, "a FIFO"),
        (make_socket, "a socket"),
        (make_device, "a character device"),
        (make_disk, "a block device"),
        (make_directory, "a directory"),
    ],
)
def test_read_file_refuses_special_files(
    top: Path, make: Callable[[Path], None], kind: str, place: str
) -> None:
    if place == "linked":
        (top / "etc/passwd").symlink_to("/linked")
    make(top / place)
    with pytest.raises(rootfs.SpecialFileError, match=f"is {kind}, expected a regular file"):
        read(top, "/etc/passwd")


def test_read_file_looks_again_at_what_it_has_opened(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running container may replace the file by a FIFO after it was looked at."""
    (top / "etc/passwd").write_bytes(b"top")
    really = os.open

    def replaced(path: str, *arguments: int, **named: int) -> int:
        if path == "passwd":
            (top / "etc/passwd").unlink()
            os.mkfifo(top / "etc/passwd")
        return really(path, *arguments, **named)

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(rootfs.SpecialFileError, match="is a FIFO"):
        read(top, "/etc/passwd")


def test_a_layer_that_is_gone_is_an_error_in_one_line(top: Path) -> None:
    with pytest.raises(OperationFailedError, match=r"'/etc/passwd' in the root file system: No such file"):
        rootfs.read_file([str(top / "gone")], "/etc/passwd", 10)


def test_no_descriptor_stays_open(top: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (top / "etc/loop").symlink_to("loop")
    (top / "etc/link").symlink_to("../etc/../etc/passwd")
    for path in (
        "/etc/passwd",
        "/etc/none",
        "/none/x",
        "/etc",
        "/etc/loop",
        "/etc/link",
        "/etc/../etc/passwd",
    ):
        with suppress(OperationFailedError):
            read(top, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_directories_come_from_overlay_and_bind_mounts() -> None:
    overlay = Mount(
        type="overlay",
        source="overlay",
        options=["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b\\:c:/d"],
    )
    assert rootfs.list_layers([overlay]) == ["/u", "/a", "/b:c", "/d"]
    assert rootfs.list_layers([Mount(type="overlay", options=["lowerdir=/a:/b"])]) == ["/a", "/b"]
    assert rootfs.list_layers([Mount(type="bind", source="/s", options=["rbind", "rw"])]) == ["/s"]


@pytest.mark.parametrize("mounts", [[], [Mount(type="erofs")], [Mount(type="bind"), Mount(type="bind")]])
def test_other_mounts_are_refused_by_name(mounts: list[Mount]) -> None:
    with pytest.raises(OperationFailedError, match="expected overlay or bind"):
        rootfs.list_layers(mounts)
