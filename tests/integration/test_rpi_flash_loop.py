# SPDX-License-Identifier: Apache-2.0
"""scripts/rpi-flash on a real block device, a loop device: the kernel's own word on size, mounts and locks."""

from __future__ import annotations

import random
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


def flash(image: Path, device: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, image, device, "--yes"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
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
    data[510:512] = b"\x55\xaa"
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
