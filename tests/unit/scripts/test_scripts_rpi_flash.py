# SPDX-License-Identifier: Apache-2.0
"""scripts/rpi-flash on files: what it writes, how it compares, and each refusal in one line."""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import os
import pty
import random
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/rpi-flash"
MIB = 1024 * 1024


@pytest.fixture
def rpi_flash(scripts_lib: None) -> Any:
    import rpi_flash

    return rpi_flash


def content(size: int = 9 * MIB + 512) -> bytes:
    """A disk image as far as this script looks: a table with one partition to the end, and bytes that repeat nowhere."""
    data = bytearray(random.Random(1).randbytes(size))
    data[446:512] = struct.pack("<BxxxBxxxLL48x2s", 0x80, 0x83, 1, size // 512 - 1, b"\x55\xaa")
    return bytes(data)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def run(*arguments: str | Path, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], input=answer, stdin=None if answer is not None else subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def refusal(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("checking")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    return errors[0]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.wic"
    path.write_bytes(content())
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card"
    path.write_bytes(b"\xff" * 12 * MIB)
    return path


@pytest.mark.parametrize("packed", PACKERS)
def test_an_image_is_written_and_compared_however_it_is_packed(
    tmp_path: Path, card: Path, packed: str
) -> None:
    path = tmp_path / f"image.wic{packed}"
    path.write_bytes(PACKERS[packed](content()))
    done = run(path, card, "--force-file", "--yes")
    assert done.returncode == 0, done.stderr
    assert "read back and compared" in done.stdout
    assert card.read_bytes() == content() + b"\xff" * (12 * MIB - len(content()))


def test_progress_is_told_of_each_pass(image: Path, card: Path) -> None:
    lines = run(image, card, "--force-file", "--yes").stderr.splitlines()
    assert [line.split(":")[0] for line in lines if "100 %" in line] == ["checking", "writing", "verifying"]


@pytest.mark.parametrize("packed", [".bz2", ".gz", ".xz", ".zst"])
def test_a_packed_image_that_is_cut_off_costs_no_card(tmp_path: Path, card: Path, packed: str) -> None:
    path = tmp_path / f"image.wic{packed}"
    whole = PACKERS[packed](content())
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(path, card, "--force-file", "--yes")
    assert set(card.read_bytes()) == {0xFF}


@pytest.mark.parametrize("packed", [".bz2", ".gz", ".xz", ".zst"])
def test_a_packed_image_with_a_wrong_byte_costs_no_card(tmp_path: Path, card: Path, packed: str) -> None:
    path = tmp_path / f"image.wic{packed}"
    data = bytearray(PACKERS[packed](content()))
    data[len(data) // 2] ^= 1
    if packed == ".zst":  # a byte of stored data is only noticed by a checksum
        data = bytearray(zstd(content()))
        data[-1] ^= 1
    path.write_bytes(data)
    assert "cannot be read" in refusal(path, card, "--force-file", "--yes")
    assert set(card.read_bytes()) == {0xFF}


def test_a_gzip_file_that_cannot_be_unpacked_costs_no_card(tmp_path: Path, card: Path) -> None:
    """zlib finds this one before gzip's own checksum does, and raises an error of its own."""
    path = tmp_path / "image.wic.gz"
    data = bytearray(gzip.compress(bytes(MIB)))
    data[10] = 0xFF  # a kind of block that does not exist
    path.write_bytes(data)
    assert "image.wic.gz cannot be read: Error -3 while decompressing" in refusal(
        path, card, "--force-file", "--yes"
    )
    assert set(card.read_bytes()) == {0xFF}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("image.iso", content(1024), "is not a .wic or .img"),
        ("image.wic.zip", content(1024), "is not a .wic or .img"),
        ("image.wic", b"", "it is empty"),
        ("image.wic", bytes(1024), "begins without a partition table"),
        ("image.wic", b"<html>not found</html>", "begins without a partition table"),
        ("image.wic", content(1024) + b"x", "is cut off: 1025 bytes"),
        ("image.wic.gz", content(1024), "cannot be read"),
        ("image.wic.zst", content(1024), "cannot be read"),
    ],
)
def test_a_file_that_is_no_whole_disk_image_is_refused(
    tmp_path: Path, card: Path, name: str, data: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert reason in refusal(path, card, "--force-file", "--yes")
    assert set(card.read_bytes()) == {0xFF}


def test_an_image_that_is_not_there_is_named(tmp_path: Path, card: Path) -> None:
    assert f"{tmp_path}/away.wic cannot be read: No such file" in refusal(
        tmp_path / "away.wic", card, "--force-file", "--yes"
    )


def test_an_image_that_does_not_fit_is_refused_before_a_byte_is_written(image: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"\xff" * MIB)
    assert "does not fit: it is 9.0 MiB" in refusal(image, small, "--force-file", "--yes")
    assert set(small.read_bytes()) == {0xFF}


def test_the_image_is_not_written_onto_itself(image: Path) -> None:
    assert "is the image itself" in refusal(image, image, "--force-file", "--yes")
    assert image.read_bytes() == content()


def test_a_plain_file_is_no_card_unless_it_is_said_to_be(image: Path, card: Path) -> None:
    assert "is not a block device" in refusal(image, card, "--yes")
    assert set(card.read_bytes()) == {0xFF}


@pytest.mark.parametrize("device", ["/dev/null", "/dev", "/dev/not-there"])
def test_what_is_no_disk_is_refused(image: Path, device: str) -> None:
    assert refusal(image, device, "--yes").startswith(f"error: {device}")


@pytest.mark.parametrize("device", ["/dev/null", "/dev"])
def test_what_is_no_file_is_refused_though_files_are_allowed(image: Path, device: str) -> None:
    assert f"{device} is not a plain file" in refusal(image, device, "--yes", "--force-file")


def test_nobody_is_asked_where_nobody_is(image: Path, card: Path) -> None:
    assert "add --yes" in refusal(image, card, "--force-file")
    assert set(card.read_bytes()) == {0xFF}


@pytest.mark.parametrize(
    ("answer", "code"), [("yes\n", 0), ("y\n", 1), ("\n", 1), ("YES please\n", 1), ("\x04", 1)]
)
def test_only_a_whole_yes_on_a_terminal_starts_the_writing(
    image: Path, card: Path, answer: str, code: int
) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        command = [str(SCRIPT), str(image), str(card), "--force-file"]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=120, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "will be lost" in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == code
    assert "Traceback" not in done.stderr
    assert (card.read_bytes()[: 9 * MIB] == content()[: 9 * MIB]) == (code == 0)


def test_a_card_that_forgets_a_byte_is_found_out(rpi_flash: Any, image: Path, card: Path) -> None:
    found = rpi_flash.check_image(str(image))
    device = rpi_flash.plain_file(str(card))
    rpi_flash.write(found, device, rpi_flash.opened(device))
    with card.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"\0")
    with pytest.raises(rpi_flash.FlashError, match=f"from byte {4 * MIB} on"):
        rpi_flash.verify(found, device)


def test_a_card_that_is_shorter_than_it_says_is_found_out(rpi_flash: Any, image: Path, card: Path) -> None:
    found = rpi_flash.check_image(str(image))
    device = rpi_flash.plain_file(str(card))
    rpi_flash.write(found, device, rpi_flash.opened(device))
    os.truncate(card, 8 * MIB)
    with pytest.raises(rpi_flash.FlashError, match=f"from byte {8 * MIB} on"):
        rpi_flash.verify(found, device)


def test_an_image_that_changes_while_it_is_written_is_found_out(
    rpi_flash: Any, image: Path, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rpi_flash.write

    def write(*arguments: object) -> None:
        image.write_bytes(content()[::-1])
        real(*arguments)

    monkeypatch.setattr(rpi_flash, "write", write)
    options = argparse.Namespace(image=str(image), device=str(card), yes=True, force_file=True)
    with pytest.raises(rpi_flash.FlashError, match="from byte 0 on"):
        rpi_flash.flash(options, rpi_flash.Machine())


def test_without_the_program_zstd_it_says_what_to_install(
    rpi_flash: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.wic.zst"
    path.write_bytes(b"x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(rpi_flash.FlashError, match="apt-get install zstd"):
        rpi_flash.check_image(str(path))


@pytest.mark.parametrize("words", [(), ("a.wic",), ("a.wic", "b", "c"), ("a.wic", "b", "--what")])
def test_a_bad_command_line_is_one_line(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_who_may_not_write_is_told_before_the_image_is_read(
    rpi_flash: Any, tmp_path: Path, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    options = argparse.Namespace(
        image=str(tmp_path / "away.wic"), device=str(card), yes=True, force_file=True
    )
    with pytest.raises(rpi_flash.FlashError, match="may not be written to by this user: run this as root"):
        rpi_flash.flash(options, rpi_flash.Machine())


def test_what_cannot_be_opened_is_not_called_spoilt(image: Path, tmp_path: Path) -> None:
    message = refusal(image, tmp_path / "away/card", "--force-file", "--yes")
    assert message.endswith("away/card cannot be written to: No such file or directory; nothing was written")
