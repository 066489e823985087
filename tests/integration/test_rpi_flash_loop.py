# SPDX-License-Identifier: Apache-2.0
"""scripts/rpi-flash on a real block device, a loop device: the kernel's own word on size, mounts and locks."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).resolve().parents[2] / "scripts/rpi-flash"
MIB = 1024 * 1024


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


def flash(image: Path, device: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """*path*: a directory with programs to find first."""
    return subprocess.run(
        [SCRIPT, image, device, "--yes"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False, env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
    )  # fmt: skip


@contextmanager
def loop(backing: Path, *options: str) -> Iterator[str]:
    device = run("losetup", "--find", "--show", *options, backing)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    data = bytearray(random.Random(2).randbytes(5 * MIB))
    data[446:512] = struct.pack("<BxxxBxxxLL48x2s", 0x80, 0x83, 1, 5 * MIB // 512 - 1, b"\x55\xaa")
    path = tmp_path / "image.wic"
    path.write_bytes(data)
    return path


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "card"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    return path


def test_an_image_is_on_the_device_after_it_was_written(image: Path, backing: Path) -> None:
    with loop(backing) as device:
        done = flash(image, device)
    assert done.returncode == 0, done.stderr
    assert backing.read_bytes()[: 5 * MIB] == image.read_bytes()


def test_a_mounted_device_is_refused_and_its_files_stay(image: Path, backing: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with loop(backing) as device:
        run("mkfs.ext4", "-q", device)
        run("mount", device, mounted)
        try:
            done = flash(image, device)
            assert (mounted / "lost+found").is_dir()
        finally:
            run("umount", mounted)
    assert done.returncode == 1
    assert f"{device} is in use: {device} is mounted on {mounted}" in done.stderr


def test_a_device_that_is_too_small_is_refused(image: Path, backing: Path) -> None:
    with backing.open("r+b") as file:
        file.truncate(4 * MIB)
    with loop(backing) as device:
        done = flash(image, device)
    assert "does not fit" in done.stderr
    assert not any(backing.read_bytes())


def test_a_locked_device_is_refused(image: Path, backing: Path) -> None:
    with loop(backing, "--read-only") as device:
        done = flash(image, device)
    assert "is read-only" in done.stderr


@pytest.fixture
def sparse_image(tmp_path: Path) -> Path:
    """A GPT, a FAT and an ext4 partition, mostly holes, with a block map: as wic makes it."""
    path = tmp_path / "sparse.wic"
    with path.open("wb") as file:
        file.truncate(24 * MIB)
    table = f"label: gpt\nstart=2048, size={4 * MIB // 512}\nstart={8 * MIB // 512}\n"
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, capture_output=True, check=True)
    run("mkfs.ext4", "-q", "-E", f"offset={8 * MIB}", path, "15M")
    run("bmaptool", "-q", "create", "-o", f"{path}.bmap", path)
    return path


def test_rpi_flash_writes_a_sparse_gpt_image_by_its_map(sparse_image: Path, tmp_path: Path) -> None:
    card = tmp_path / "used-card"
    card.write_bytes(b"\xff" * 32 * MIB)
    with loop(card) as device:
        done = flash(sparse_image, device)
        assert done.returncode == 0, done.stderr
        run("sfdisk", "--verify", device)
        run("e2fsck", "-fn", f"{device}?offset={8 * MIB}")
    written = card.read_bytes()
    assert written[24 * MIB - 512 : 24 * MIB] == sparse_image.read_bytes()[-512:]
    assert set(written[5 * MIB : 8 * MIB]) == {0xFF}, "holes are not written"


@pytest.mark.parametrize("bmap", [True, False])
def test_rpi_flash_reports_a_device_that_is_removed_while_it_is_written(
    sparse_image: Path, backing: Path, tmp_path: Path, bmap: bool
) -> None:
    """The program that feeds the writing, zstd, takes the medium out in the middle: a card reader's disk then has the size 0."""
    run("zstd", "-q", sparse_image)
    if not bmap:
        Path(f"{sparse_image}.bmap").unlink()
    programs = tmp_path / "programs"
    programs.mkdir()
    with loop(backing) as device:
        os.truncate(backing, 32 * MIB)
        run("losetup", "--set-capacity", device)
        (programs / "zstd").write_text(
            f"#!/bin/sh\nif [ -e {tmp_path}/checked ]; then truncate -s 0 {backing}; losetup -c {device}; fi\n"
            f'touch {tmp_path}/checked\nexec /usr/bin/zstd "$@"\n'
        )
        (programs / "zstd").chmod(0o755)
        done = flash(Path(f"{sparse_image}.zst"), device, str(programs))
    assert done.returncode == 1
    assert f"{device} was removed or changed while it was being written" in done.stderr
    assert "has no medium" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("bmap", [True, False])
def test_rpi_flash_reports_a_device_that_fails_while_it_is_written(
    sparse_image: Path, tmp_path: Path, bmap: bool
) -> None:
    """A card whose second half cannot hold anything: its file lies in a file system without room."""
    if not bmap:
        Path(f"{sparse_image}.bmap").unlink()
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=128k" if bmap else "size=8M", "tmpfs", place)
    try:
        with (place / "card").open("wb") as file:
            file.truncate(32 * MIB)
        with loop(place / "card") as device:
            done = flash(sparse_image, device)
    finally:
        run("umount", place)
    assert done.returncode == 1
    assert f"error: {device}: " in done.stderr
    assert "what is on it now cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_rpi_flash_refuses_a_device_that_is_opened_exclusively(image: Path, backing: Path) -> None:
    with loop(backing) as device:
        descriptor = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            done = flash(image, device)
        finally:
            os.close(descriptor)
    assert f"{device} cannot be written to: Device or resource busy; nothing was written" in done.stderr
    assert not any(backing.read_bytes())
