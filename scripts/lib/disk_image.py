# SPDX-License-Identifier: Apache-2.0
"""A disk image in a file, perhaps packed, perhaps with a block map beside it: read it through and check that it is
whole.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import partition_table
from block_device import FlashError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 4 * 1024 * 1024
SUFFIXES = (".wic", ".img")
PACKED = (".bz2", ".gz", ".xz", ".zst")
PROGRESS_TTY, PROGRESS_LOG = 0.2, 5.0
"""Seconds between two lines of progress, on a terminal and elsewhere."""
DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)
"""Exceptions that a damaged packed file causes."""


@dataclass
class Image:
    """A checked image: its length unpacked, the SHA-256 of each chunk, and the block map beside it."""

    path: str
    size: int
    digests: list[str]
    bmap: Path | None


class Progress:
    """The progress of a pass: one line that is overwritten on a terminal, a line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, out: IO[str] = sys.stderr) -> None:
        self.what, self.total, self.out = what, total, out
        self.tty = out.isatty()
        self.began = self.shown = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self.shown >= (PROGRESS_TTY if self.tty else PROGRESS_LOG):
            self.shown = now
            self.show(done, now, "\r" if self.tty else "\n")

    def done(self, total: int) -> None:
        self.show(total, time.monotonic(), "\n")

    def show(self, done: int, now: float, end: str) -> None:
        share = f" {100 * done // self.total:3d} %" if self.total else ""
        rate = done / max(now - self.began, 1e-3)
        self.out.write(f"{self.what}:{share} {size(done)}, {size(rate)}/s    {end}")
        self.out.flush()


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


@contextlib.contextmanager
def unpacked(path: str) -> Iterator[IO[bytes]]:
    """Yield the unpacked image as a stream."""
    opener: dict[str, Callable[[str], IO[bytes]]] = {
        ".bz2": bz2.open,
        ".gz": gzip.open,  # type: ignore[dict-item]
        ".xz": lzma.open,
    }
    suffix = os.path.splitext(path)[1]
    if suffix == ".zst":
        with zstd(path) as stream:
            yield stream
        return
    with opener[suffix](path) if suffix in opener else open(path, "rb") as stream:
        yield stream


@contextlib.contextmanager
def zstd(path: str) -> Iterator[IO[bytes]]:
    if shutil.which("zstd") is None:
        raise FlashError(f"{path} needs the program zstd: apt-get install zstd")
    command = ["zstd", "-dcq", "--", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout
            message = process.stderr.read().decode(errors="replace").strip()
            if process.wait():
                raise OSError(message.splitlines()[-1] if message else "zstd failed")
        finally:
            process.kill()


def chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield whole chunks, except for the last. A decompressor may return less than requested."""
    rest = bytearray()
    while data := stream.read(CHUNK):
        rest += data
        while len(rest) >= CHUNK:
            yield bytes(rest[:CHUNK])
            del rest[:CHUNK]
    if rest:
        yield bytes(rest)


def find_bmap(path: str) -> Path | None:
    """Return the block map beside an image, if any. Yocto names it without the compressor's suffix."""
    names = [path, os.path.splitext(path)[0]] if path.endswith(PACKED) else [path]
    return next((Path(f"{name}.bmap") for name in names if os.path.isfile(f"{name}.bmap")), None)


class ChecksumError(OSError):
    """A checksum differs, or bmaptool failed; the text is its last line."""


def bmaptool(bmap: Path, source: str, target: str) -> None:
    """Copy what the map names. bmaptool checks the map and each checksum; a copy to /dev/null only checks."""
    done = subprocess.run(
        copy_command(bmap, source, target), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    judge(done.returncode, done.stdout)


@contextlib.contextmanager
def bmaptool_fed(bmap: Path, target: str) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that gives bmaptool the unpacked image, so that it needs no unpackers."""
    command = copy_command(bmap, "/dev/stdin", target)
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=log, stderr=log) as process:
            pipe = process.stdin
            assert pipe is not None

            def write(data: bytes) -> None:
                # bmaptool closes the pipe early if it fails, or if nothing at the image's end is mapped
                with contextlib.suppress(BrokenPipeError):
                    write_all(pipe, data)

            try:
                yield write
                pipe.close()
                process.wait()
            finally:
                process.kill()
        log.seek(0)
        judge(process.returncode, log.read())


def copy_command(bmap: Path, source: str, target: str) -> list[str]:
    return ["bmaptool", "-q", "copy", "--bmap", str(bmap), source, target]


def judge(code: int, output: bytes) -> None:
    if code:
        text = last_line(output.decode(errors="replace")).removeprefix("bmaptool: ERROR: ")
        # a fault of its own ends with the name of a Python exception
        raise ChecksumError(text if text and not re.match(r"\w+Error:", text) else "bmaptool cannot read it")


def write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def mapped_size(bmap: Path) -> int:
    """Return the size of the image that a map describes. A map without checksums could not be checked later."""
    try:
        raw = bmap.read_bytes()
    except OSError as error:
        raise FlashError(f"{bmap} cannot be read: {describe(error)}") from error
    found = re.search(rb"<ImageSize>\s*(\d+)\s*</ImageSize>", raw)
    if not found:
        raise FlashError(f"{bmap} is not a block map: it has no ImageSize")
    ranges = re.findall(rb"<Range\b[^>]*>", raw)
    if not ranges or not all(re.search(rb'\b(chksum|sha1)="', words) for words in ranges):
        raise FlashError(f"{bmap} is not a block map with checksums: make it with bmaptool 3, or remove it")
    return int(found[1])


def check_image(path: str) -> Image:
    """Read *path* through: it must be a whole disk's image, undamaged, as long as its partition table says."""
    name = os.path.splitext(path)[0] if path.endswith(PACKED) else path
    if not name.endswith(SUFFIXES):
        raise FlashError(f"{path} is not a .wic or .img, plain or packed as .bz2, .gz, .xz or .zst")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FlashError(f"{path} is not a file")
    except OSError as error:
        raise FlashError(f"{path} cannot be read: {describe(error)}") from error
    found = find_bmap(path)
    if found and shutil.which("bmaptool") is None:
        raise FlashError(f"{found} needs the program bmaptool: apt-get install bmap-tools")
    mapped = mapped_size(found) if found else None
    try:
        length, digests = read_through(path, found, os.path.getsize(path) if name == path else 0)
    except ChecksumError as error:
        raise FlashError(f"{path} does not match {found}, or {found} is damaged: {error}") from error
    except FlashError as error:
        raise FlashError(f"{path} is not a whole disk image: {error}") from error
    except DAMAGED as error:
        raise FlashError(f"{path} cannot be read: {describe(error)}") from error
    if mapped not in {None, length}:
        raise FlashError(f"{found} is about an image of {mapped} bytes, {path} has {length}")
    return Image(path, length, digests, found)


def read_through(path: str, bmap: Path | None, total: int) -> tuple[int, list[str]]:
    """Return the length and the SHA-256 of each chunk. *total* is for the progress only: 0 if it is unknown."""
    progress, table, backup, at, digests = Progress("checking", total), None, b"", 0, []
    with bmaptool_fed(bmap, os.devnull) if bmap else contextlib.nullcontext(unchecked) as check:
        with unpacked(path) as stream:
            for data in chunks(stream):
                table = table or partition_table.parse(data)
                if table.backup is not None and at <= table.backup < at + len(data):
                    backup = data[table.backup - at :][: partition_table.SECTOR]
                digests.append(hashlib.sha256(data).hexdigest())
                check(data)
                at += len(data)
                progress.at(at)
        progress.done(at)
        check_length(table, at, backup)
    return at, digests


def unchecked(_data: bytes) -> None:
    """Accept data in place of bmaptool if there is no map."""


def check_length(table: partition_table.Table | None, length: int, backup: bytes) -> None:
    if table is None:
        raise FlashError("it is empty")
    if length % partition_table.SECTOR:
        raise FlashError(f"it is cut off: {length} bytes are not whole sectors")
    if table.end > length:
        raise FlashError(f"it is cut off: its partition table needs {table.end} bytes, it has {length}")
    if table.backup is not None:
        partition_table.check_backup(backup, table)


def describe(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return " ".join(text.split())


def last_line(output: str) -> str:
    """Return the last line that a program printed, without colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()]
    return next((line for line in reversed(lines) if line), "")
