# SPDX-License-Identifier: Apache-2.0
"""A disk image in a file, perhaps packed, perhaps with a block map beside it: read it through and check that it is whole."""

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
import time
import xml.etree.ElementTree as ET
import zlib
from dataclasses import dataclass, field
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
"""What reading a packed file raises where it is damaged."""


@dataclass(frozen=True)
class Extent:
    """A part of the image that has to be on the card, and its digest; "" where the block map has none."""

    start: int
    end: int
    digest: str


@dataclass
class Image:
    """What is in an image, unpacked."""

    path: str
    size: int = 0
    extents: list[Extent] = field(default_factory=list)
    algorithm: str = "sha256"
    bmap: Path | None = None


class Progress:
    """How far a pass is: one line that is overwritten on a terminal, a line now and then elsewhere."""

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
    """The image's bytes as they go onto the card."""
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
    """Always whole chunks but for the last: a decompressor returns less than it is asked for."""
    rest = bytearray()
    while data := stream.read(CHUNK):
        rest += data
        while len(rest) >= CHUNK:
            yield bytes(rest[:CHUNK])
            del rest[:CHUNK]
    if rest:
        yield bytes(rest)


def find_bmap(path: str) -> Path | None:
    """The block map beside an image: Yocto names it without the suffix of the compressor."""
    names = [path, os.path.splitext(path)[0]] if path.endswith(PACKED) else [path]
    return next((Path(f"{name}.bmap") for name in names if os.path.isfile(f"{name}.bmap")), None)


def read_bmap(path: Path) -> Image:
    """Size and extents of the image that a block map is about."""
    try:
        raw = path.read_bytes()
        root = ET.fromstring(raw)
        values = {child.tag: (child.text or "").strip() for child in root}
        algorithm, own = checksum_of_map(root.get("version", ""), values)
        hashlib.new(algorithm, usedforsecurity=False)
        image = Image("", int(values["ImageSize"]), algorithm=algorithm, bmap=path)
        image.extents = list(ranges(root, int(values["BlockSize"]), image.size))
        blocks, mapped = int(values["BlocksCount"]), int(values["MappedBlocksCount"])
        covered = sum(-(-(part.end - part.start) // int(values["BlockSize"])) for part in image.extents)
        if not 0 < mapped == covered <= blocks:
            raise ValueError(f"it maps {covered} blocks, and says it maps {mapped} of {blocks}")
    except KeyError as error:
        raise FlashError(f"{path} is not a block map: it has no {error.args[0]}") from error
    except (OSError, ET.ParseError, ValueError) as error:
        raise FlashError(f"{path} is not a block map: {describe(error)}") from error
    blanked = raw.replace(own.encode(), b"0" * len(own)) if own else raw
    if own and hashlib.new(algorithm, blanked, usedforsecurity=False).hexdigest() != own:
        raise FlashError(f"{path} is damaged: its content does not match its own checksum")
    return image


def checksum_of_map(version: str, values: dict[str, str]) -> tuple[str, str]:
    """The algorithm of a map's checksums, and the map's own one: "" where the format had none. bmaptool knows these versions."""
    if not re.fullmatch(r"[12]\.[0-9]+", version):
        raise ValueError(f"its version is {version!r}, known are 1 and 2")
    if version == "1.3":
        return "sha1", values["BmapFileSHA1"]
    if version in {"1.0", "1.1", "1.2"}:
        return "sha256", ""
    return values["ChecksumType"], values["BmapFileChecksum"]


def ranges(root: ET.Element, block: int, total: int) -> Iterator[Extent]:
    """What a map names, in the order in which an image is read through."""
    at = 0
    for element in root.iterfind("BlockMap/Range"):
        text = (element.text or "").strip()
        first, _, last = text.partition("-")
        start, end = int(first) * block, min((int(last or first) + 1) * block, total)
        if not at <= start < end:
            raise ValueError(f"blocks {text} are not after the ones before, or not in the image")
        at = end
        yield Extent(start, end, element.get("chksum") or element.get("sha1") or "")


class Comparison:
    """Compares an image, given piece by piece, with the extents of its block map, or makes extents where there is none."""

    def __init__(self, bmap: Image | None) -> None:
        self.bmap = bmap
        self.left = list(reversed(bmap.extents)) if bmap else []
        self.found: list[Extent] = []
        self.at = 0
        self.sum = self.new()

    def new(self) -> hashlib._Hash:
        return hashlib.new(self.bmap.algorithm if self.bmap else "sha256", usedforsecurity=False)

    def feed(self, data: bytes) -> None:
        end = self.at + len(data)
        if self.bmap is None:
            self.left = [Extent(self.at, end, "")]
        while self.left and self.left[-1].start < end:
            extent = self.left[-1]
            self.sum.update(data[max(extent.start - self.at, 0) : extent.end - self.at])
            if extent.end > end:
                break
            self.close(self.left.pop())
        self.at = end

    def close(self, extent: Extent) -> None:
        digest = self.sum.hexdigest()
        self.sum = self.new()
        if extent.digest not in {"", digest}:
            raise FlashError(f"bytes {extent.start} to {extent.end - 1} do not match {self.bmap and self.bmap.bmap}")  # fmt: skip
        self.found.append(Extent(extent.start, extent.end, digest))


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
    bmap = read_bmap(found) if found else None
    try:
        return read_through(path, bmap, os.path.getsize(path) if name == path else 0)
    except FlashError as error:
        raise FlashError(f"{path} is not a whole disk image: {error}") from error
    except DAMAGED as error:
        raise FlashError(f"{path} cannot be read: {describe(error)}") from error


def read_through(path: str, bmap: Image | None, total: int) -> Image:
    """*total* is for the progress only: 0 where it is not known."""
    progress, comparison, table, backup = Progress("checking", total), Comparison(bmap), None, b""
    with unpacked(path) as stream:
        for data in chunks(stream):
            at = comparison.at
            table = table or partition_table.parse(data)
            if table.backup is not None and at <= table.backup < at + len(data):
                backup = data[table.backup - at :][: partition_table.SECTOR]
            comparison.feed(data)
            progress.at(comparison.at)
    length = comparison.at
    progress.done(length)
    if table is None:
        raise FlashError("it is empty")
    if length % partition_table.SECTOR:
        raise FlashError(f"it is cut off: {length} bytes are not whole sectors")
    if table.end > length:
        raise FlashError(f"it is cut off: its partition table needs {table.end} bytes, it has {length}")
    if table.backup is not None:
        partition_table.check_backup(backup, table)
    if bmap is not None and bmap.size != length:
        raise FlashError(f"{bmap.bmap} is about an image of {bmap.size} bytes, it has {length}")
    return Image(path, length, comparison.found, bmap.algorithm if bmap else "sha256", bmap.bmap if bmap else None)  # fmt: skip


def describe(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return " ".join(text.split())


def last_line(output: str) -> str:
    """What a program printed last, without colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()]
    return next((line for line in reversed(lines) if line), "")
