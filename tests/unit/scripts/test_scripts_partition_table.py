# SPDX-License-Identifier: Apache-2.0
"""An image that ends before its partition table says is refused; tables are made by sfdisk."""

from __future__ import annotations

import struct
import subprocess
import zlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1024 * 1024
SIZE = 12 * MIB
"""More than one chunk, so that a GPT's second header is not read with the first one."""
TABLES = {
    "mbr": f"label: dos\nstart=2048, size=2048\nstart=4096, size={SIZE // 512 - 4096}\n",
    "mbr-logical": f"label: dos\nstart=2048, size=2048\nstart=4096, size={SIZE // 512 - 4096}, type=5\nstart=6144, size=2048\n",
    "gpt": "label: gpt\nstart=2048, size=2048\nstart=4096, size=4096\n",
    "gpt-full": "label: gpt\nstart=2048\n",
}


@pytest.fixture
def disk_image(scripts_lib: None) -> Any:
    import disk_image

    return disk_image


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    def made(kind: str) -> Path:
        path = tmp_path / "image.wic"
        with path.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(
            ["sfdisk", "-q", path], input=TABLES[kind], text=True, capture_output=True, check=True
        )  # fmt: skip
        return path

    return made


def change(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def seal(path: Path, at: int) -> None:
    """Give the GPT header at *at* the checksum of what it holds now."""
    content = bytearray(path.read_bytes()[at : at + 92])
    content[16:20] = bytes(4)
    change(path, at + 16, struct.pack("<L", zlib.crc32(content)))


@pytest.mark.parametrize("kind", TABLES)
def test_image_check_takes_a_file_that_ends_with_its_table(
    disk_image: Any, make: Callable[[str], Path], kind: str
) -> None:
    assert disk_image.check_image(str(make(kind))).size == SIZE


@pytest.mark.parametrize("kind", TABLES)
def test_image_check_takes_a_file_that_is_longer_than_its_table(
    disk_image: Any, make: Callable[[str], Path], kind: str
) -> None:
    with make(kind).open("r+b") as file:
        file.truncate(SIZE + 512)
    assert disk_image.check_image(file.name).size == SIZE + 512


@pytest.mark.parametrize("lost", [512, MIB, 8 * MIB])
@pytest.mark.parametrize("kind", TABLES)
def test_image_check_refuses_a_file_that_ends_before_its_table(
    disk_image: Any, make: Callable[[str], Path], kind: str, lost: int
) -> None:
    with make(kind).open("r+b") as file:
        file.truncate(SIZE - lost)
    with pytest.raises(
        disk_image.FlashError, match=f"cut off: its partition table needs {SIZE} bytes, it has {SIZE - lost}"
    ):
        disk_image.check_image(file.name)


def test_image_check_refuses_a_gpt_of_one_sector(disk_image: Any, make: Callable[[str], Path]) -> None:
    with make("gpt").open("r+b") as file:
        file.truncate(512)
    with pytest.raises(disk_image.FlashError, match="it has no GPT header in sector 1"):
        disk_image.check_image(file.name)


def test_image_check_refuses_a_gpt_partition_that_ends_beyond_the_file(
    disk_image: Any, make: Callable[[str], Path]
) -> None:
    path = make("gpt")
    change(path, 1024 + 40, struct.pack("<Q", SIZE // 512))  # the last sector of the first partition
    entries = path.read_bytes()[1024 : 1024 + 128 * 128]
    change(path, 512 + 88, struct.pack("<L", zlib.crc32(entries)))
    seal(path, 512)
    with pytest.raises(disk_image.FlashError, match=f"needs {SIZE + 512} bytes"):
        disk_image.check_image(str(path))


BACKUP = SIZE - 512


@pytest.mark.parametrize(
    ("at", "data", "sealed", "reason"),
    [
        (512, b"x", False, "it has no GPT header in sector 1"),
        (512 + 60, b"x", False, "its GPT header in sector 1 is damaged"),
        (512 + 24, b"\2", True, "its GPT header in sector 1 is damaged"),
        (512 + 84, b"\0", True, "no room for the partitions"),
        (512 + 72, b"\xff\xff", True, "no room for the partitions"),
        (1024 + 130, b"x", False, "wrong checksum of the partitions"),
        (BACKUP, b"x", False, f"it has no backup GPT header in sector {BACKUP // 512}"),
        (BACKUP + 60, b"x", False, "its backup GPT header in sector .* is damaged"),
        (BACKUP + 32, b"\2", True, "it does not name the first header"),
    ],
)
def test_image_check_refuses_a_damaged_gpt(
    disk_image: Any, make: Callable[[str], Path], at: int, data: bytes, sealed: bool, reason: str
) -> None:
    path = make("gpt")
    change(path, at, data)
    if sealed:
        seal(path, at // 512 * 512)
    with pytest.raises(disk_image.FlashError, match=reason):
        disk_image.check_image(str(path))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (b"", "its partition table has no partitions"),
        (b"\0\0\0\0\x83", "its partition table has no partitions"),
        (b"\x20", "it begins without a partition table"),
    ],
)
def test_image_check_refuses_a_boot_sector_without_partitions(
    disk_image: Any, tmp_path: Path, entry: bytes, reason: str
) -> None:
    path = tmp_path / "image.img"
    path.write_bytes(bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa")
    with pytest.raises(disk_image.FlashError, match=reason):
        disk_image.check_image(str(path))
