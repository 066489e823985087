# SPDX-License-Identifier: Apache-2.0
"""scripts/rpi-flash with a block map beside the image, made and used by bmaptool: on files."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/rpi-flash"
MIB = 1024 * 1024
SIZE = 9 * MIB + 512
MAPPED = {0: b"\1" * 8192, 5 * MIB: b"\2" * (3 * MIB)}
"""The rest is a hole; the second part crosses a border of the chunks in which the image is read, after the border at 4 MiB."""
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout,
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image with its block map."""
    path = tmp_path / "image.wic"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for at, data in MAPPED.items():
            file.seek(at)
            file.write(data)
        file.seek(446)
        file.write(struct.pack("<BxxxBxxxLL48x2s", 0x80, 0x83, 1, SIZE // 512 - 1, b"\x55\xaa"))
    subprocess.run(["bmaptool", "-q", "create", "-o", f"{path}.bmap", path], check=True)
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card"
    path.write_bytes(b"\xff" * SIZE)
    return path


def flash(image: Path, card: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, image, card, "--force-file", "--yes"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def refusal(image: Path, card: Path) -> str:
    done = flash(image, card)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("checking")]
    assert len(errors) == 1, done.stderr
    assert set(card.read_bytes()) == {0xFF}, "nothing may be written"
    return errors[0]


def edit(path: Path, pattern: str, text: str, *, sealed: bool = True) -> None:
    """Change a block map, and give it the checksum of what it holds then."""
    content, count = re.subn(pattern, text, path.read_text())
    assert count
    if sealed:
        own = re.search(r"<BmapFileChecksum>\s*(\w+)", content)
        assert own
        content = content.replace(own[1], "0" * 64)
        content = content.replace("0" * 64, hashlib.sha256(content.encode()).hexdigest())
    path.write_text(content)


@pytest.mark.parametrize("packed", PACKERS)
def test_rpi_flash_writes_only_mapped_blocks(image: Path, card: Path, packed: str) -> None:
    whole = image.read_bytes()
    path = image.with_name(f"image.wic{packed}")
    path.write_bytes(PACKERS[packed](whole))
    done = flash(path, card)
    assert done.returncode == 0, done.stderr
    assert "read back and compared" in done.stdout
    assert card.read_bytes() == whole
    assert card.stat().st_blocks * 512 < 4 * MIB, "holes stay holes"


def test_rpi_flash_prefers_the_map_of_the_packed_file(image: Path, card: Path) -> None:
    packed = image.with_name("image.wic.gz")
    packed.write_bytes(gzip.compress(image.read_bytes()))
    Path(f"{packed}.bmap").write_text("<html/>")
    assert f"{packed}.bmap is not a block map" in refusal(packed, card)


def test_rpi_flash_refuses_an_image_that_its_map_does_not_describe(image: Path, card: Path) -> None:
    with image.open("r+b") as file:
        file.seek(8 * MIB - 1)
        file.write(b"x")
    error = refusal(image, card)
    assert f"{image} does not match {image}.bmap, or " in error
    assert "checksum mismatch for blocks range 1280-2047" in error


def test_rpi_flash_refuses_a_map_with_a_wrong_checksum(image: Path, card: Path) -> None:
    edit(Path(f"{image}.bmap"), "the block map file", "the block map  file", sealed=False)
    assert re.search(f"{image}.bmap is damaged: checksum mismatch for bmap file", refusal(image, card))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (SIZE - 512, "image size does not match blocks count"),
        (SIZE + 512, f".bmap is about an image of {SIZE + 512} bytes, .* has {SIZE}"),
    ],
)
def test_rpi_flash_refuses_a_map_of_another_size(image: Path, card: Path, size: int, reason: str) -> None:
    edit(Path(f"{image}.bmap"), rf"\b{SIZE}\b", str(size))
    assert re.search(reason, refusal(image, card))


def test_rpi_flash_checks_the_partition_table_of_a_mapped_image(image: Path, card: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(SIZE - 512)
    subprocess.run(["bmaptool", "-q", "create", "-o", f"{image}.bmap", image], check=True)
    assert f"its partition table needs {SIZE} bytes, it has {SIZE - 512}" in refusal(image, card)


@pytest.mark.parametrize(
    "text", ["", "<bmap>", "<bmap/>", "<bmap><ImageSize>x</ImageSize><BlockSize>1</BlockSize></bmap>",
             "<bmap><ImageSize>1</ImageSize><BlockSize>1</BlockSize></bmap>",
             "<bmap><ImageSize>1</ImageSize><BlockSize>1</BlockSize><ChecksumType>crc</ChecksumType></bmap>"],
)  # fmt: skip
def test_rpi_flash_refuses_what_is_not_a_map(image: Path, card: Path, text: str) -> None:
    Path(f"{image}.bmap").write_text(text)
    assert f"{image}.bmap is not a block map" in refusal(image, card)


@pytest.mark.parametrize(
    ("pattern", "text", "reason"),
    [
        ('version="2.0"', 'version="3.0"', "bmaptool cannot read it"),
        (' version="2.0"', "", "bmaptool cannot read it"),
        ("<MappedBlocksCount>.*", "", "bmaptool cannot read it"),
        ("<BlocksCount>.*", "", "bmaptool cannot read it"),
        ("<Range .* 0-1 </Range>", "", "does not belong to this image"),
        (r"(?s)(<Range.*?</Range>)\s*(<Range.*?</Range>)", r"\2\1", "seeking from 8388608 to 0"),
        (r"<BlockSize> \d+", "<BlockSize> 0", "bmaptool cannot read it"),
    ],
)
def test_rpi_flash_refuses_a_map_that_bmaptool_fails_on(
    image: Path, card: Path, pattern: str, text: str, reason: str
) -> None:
    edit(Path(f"{image}.bmap"), pattern, text)
    error = refusal(image, card)
    assert re.search(f"{image} does not match {image}.bmap, or {image}.bmap is damaged: .*({reason})", error)
    assert not re.search(r"\w+Error:", error), "no traceback of bmaptool's"


def make_old(path: Path) -> None:
    """Turn a block map into one of version 1.3, whose checksums are SHA-1."""
    content = path.read_text().replace('version="2.0"', 'version="1.3"')
    content = re.sub("<ChecksumType>.*", "", content)
    for at, data in MAPPED.items():
        with path.with_suffix("").open("rb") as file:
            file.seek(at)
            found = hashlib.sha1(file.read(len(data))).hexdigest()
        content = re.sub(f'chksum="\\w+"> {at // 4096}-', f'sha1="{found}"> {at // 4096}-', content)
    own = "<BmapFileSHA1> {} </BmapFileSHA1>"
    content = re.sub("<BmapFileChecksum>.*", own.format("0" * 40), content)
    sealed = own.format(hashlib.sha1(content.encode()).hexdigest())
    path.write_text(content.replace(own.format("0" * 40), sealed))


def test_rpi_flash_takes_a_map_of_the_old_format(image: Path, card: Path) -> None:
    make_old(Path(f"{image}.bmap"))
    with image.open("r+b", buffering=0) as file:
        file.seek(8 * MIB - 1)
        file.write(b"x")
        assert "checksum mismatch for blocks range 1280-2047" in refusal(image, card)
        file.seek(8 * MIB - 1)
        file.write(b"\2")
    done = flash(image, card)
    assert done.returncode == 0, done.stderr
    assert card.read_bytes() == image.read_bytes()


def test_rpi_flash_refuses_a_map_without_checksums(image: Path, card: Path) -> None:
    edit(Path(f"{image}.bmap"), r' chksum="[^"]*"(?=> 1280)', "")
    assert f"{image}.bmap is not a block map with checksums" in refusal(image, card)


def test_verify_finds_a_changed_mapped_byte(scripts_lib: None, image: Path, card: Path) -> None:
    import rpi_flash

    found = rpi_flash.check_image(str(image))
    device = rpi_flash.plain_file(str(card))
    rpi_flash.write(found, device, rpi_flash.opened(device))
    rpi_flash.verify(found, device)
    with card.open("r+b") as file:
        file.seek(8 * MIB - 1)
        file.write(b"x")
    with pytest.raises(rpi_flash.FlashError, match="checksum mismatch for blocks range 1280-2047"):
        rpi_flash.verify(found, device)


def test_check_image_names_the_package_of_bmaptool(
    scripts_lib: None, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import disk_image

    monkeypatch.setenv("PATH", str(image.parent))
    with pytest.raises(disk_image.FlashError, match="apt-get install bmap-tools"):
        disk_image.check_image(str(image))


def test_write_reports_the_last_words_of_bmaptool(
    scripts_lib: None, image: Path, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rpi_flash

    found: Any = rpi_flash.check_image(str(image))
    device = rpi_flash.plain_file(str(card))
    image.write_bytes(image.read_bytes()[: 6 * MIB] + b"x" * (SIZE - 6 * MIB))
    with pytest.raises(OSError, match="checksum mismatch for blocks range"):
        rpi_flash.write(found, device, rpi_flash.opened(device))
