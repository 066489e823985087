# SPDX-License-Identifier: Apache-2.0
"""Write a disk image to an SD card, carefully.

    scripts/rpi-flash IMAGE DEVICE [--yes] [--force-file]

IMAGE: .wic or .img, also packed as .bz2, .gz, .xz or .zst. It is read through once before anything is written, so that a damaged or
cut-off file costs no card. DEVICE: a whole disk (/dev/sdX, /dev/mmcblkX) that is removable and not in use. After writing, the card is
read back and compared.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, NoReturn

from block_device import Device, FlashError, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 4 * 1024 * 1024
SUFFIXES = (".wic", ".img")
FLUSH_BUFFERS, READ_PARTITIONS = 0x1261, 0x125F  # BLKFLSBUF, BLKRRPART of linux/fs.h
PROGRESS_TTY, PROGRESS_LOG = 0.2, 5.0
"""Seconds between two signs of life, on a terminal and elsewhere."""


@dataclass
class Image:
    """What is in an image, unpacked: its size and the digest of each chunk."""

    path: str
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)


class Progress:
    """How far a pass is: one line that is overwritten on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: int, out: IO[str] = sys.stderr) -> None:
        self.what, self.total, self.out = what, total, out
        self.tty = out.isatty()
        self.began = self.told = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self.told >= (PROGRESS_TTY if self.tty else PROGRESS_LOG):
            self.told = now
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
    """Always whole chunks but for the last: a decompressor hands out less than asked for."""
    rest = bytearray()
    while data := stream.read(CHUNK):
        rest += data
        while len(rest) >= CHUNK:
            yield bytes(rest[:CHUNK])
            del rest[:CHUNK]
    if rest:
        yield bytes(rest)


def has_partitions(start: bytes) -> bool:
    """A boot sector's mark, as DOS and GPT partition tables have it."""
    return start[510:512] == b"\x55\xaa"


def check_image(path: str) -> Image:
    """Read *path* through: it must be a whole disk's image, undamaged."""
    name = path
    for packed in (".bz2", ".gz", ".xz", ".zst"):
        name = name.removesuffix(packed)
    if not name.endswith(SUFFIXES):
        raise FlashError(f"{path} is no .wic or .img, plain or packed as .bz2, .gz, .xz or .zst")
    image = Image(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FlashError(f"{path} is no file")
        progress = Progress("checking", os.path.getsize(path) if name == path else 0)
        with unpacked(path) as stream:
            for data in chunks(stream):
                if not image.chunks and not has_partitions(data):
                    raise FlashError(f"{path} is no disk image: it begins without a partition table")
                image.chunks.append(hashlib.sha256(data).digest())
                image.size += len(data)
                progress.at(image.size)
        progress.done(image.size)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise FlashError(f"{path} cannot be read: {describe(error)}") from error
    if not image.chunks:
        raise FlashError(f"{path} is empty")
    if image.size % 512:
        raise FlashError(f"{path} is cut off: {image.size} bytes are not whole sectors")
    return image


def describe(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return " ".join(text.split())


def plain_file(path: str) -> Device:
    """A file of fixed size in place of a card; one that is not there yet grows to what is written."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return Device(path, sys.maxsize, "a new file")
    except OSError as error:
        raise FlashError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FlashError(f"{path} is no plain file: --force-file is for files only")
    return Device(path, status.st_size or sys.maxsize, "a file")


def opened(device: Device) -> int:
    """O_EXCL: the kernel refuses a disk that somebody began to use since it was checked."""
    is_new = device.size == sys.maxsize
    flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if is_new else 0)
    try:
        if not is_new and stat.S_ISBLK(os.stat(device.path).st_mode):
            flags |= os.O_EXCL
        return os.open(device.path, flags, 0o644)
    except OSError as error:
        raise FlashError(f"{device.path} cannot be written to: {describe(error)}; nothing was written") from error  # fmt: skip


def write(image: Image, device: Device) -> None:
    """Every byte, then fsync."""
    descriptor = opened(device)
    try:
        progress, written = Progress("writing", image.size), 0
        with unpacked(image.path) as stream:
            for data in chunks(stream):
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                written += len(data)
                progress.at(written)
        os.fsync(descriptor)  # the longest part on a slow card: what is written waits in memory
        progress.done(written)
    finally:
        os.close(descriptor)
    if written != image.size:
        raise FlashError(f"{image.path} changed while it was written: start again")


def verify(image: Image, device: Device) -> None:
    """Read back from the medium, not from memory, and compare with what the first pass over the image found."""
    with open(device.path, "rb", buffering=0) as file:
        drop_cache(file)
        progress, done = Progress("verifying", image.size), 0
        for digest in image.chunks:
            data = read_exactly(file, min(CHUNK, image.size - done))
            if hashlib.sha256(data).digest() != digest:
                raise FlashError(f"{device.path} does not hold what was written, from byte {done} on: the card is bad, or the image changed")  # fmt: skip
            done += len(data)
            progress.at(done)
        progress.done(done)
        with contextlib.suppress(OSError):
            fcntl.ioctl(file, READ_PARTITIONS)


def drop_cache(file: IO[bytes]) -> None:
    if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
        with contextlib.suppress(OSError):
            fcntl.ioctl(file, FLUSH_BUFFERS)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_exactly(file: IO[bytes], count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return bytes(data)


def ask(image: Image, device: Device) -> None:
    """The last chance. Without a terminal nobody can answer, so --yes has to be given."""
    print(
        f"{device.path}: {device.description}, {size(device.size) if device.size < sys.maxsize else 'any size'}"
    )
    print(f"All that is on it will be lost. {image.path} ({size(image.size)}) will be written to it.")
    if not sys.stdin.isatty():
        raise FlashError("nobody is there to ask: add --yes")
    print("Type yes to go on: ", end="", flush=True)
    # not input(), for which the end of the input (Ctrl-D) is an error
    if sys.stdin.readline().strip() != "yes":
        raise FlashError("nothing was written")


def flash(options: argparse.Namespace, machine: Machine) -> None:
    """Look at the device first: that is quick; and once more after the image was checked, which takes minutes."""
    find = plain_file if options.force_file else machine.whole_disk
    device = find(options.device)
    if os.path.exists(device.path) and not os.access(device.path, os.R_OK | os.W_OK):
        raise FlashError(f"{device.path} may not be written to by this user: run this as root")
    image = check_image(options.image)
    device = find(options.device)
    if os.path.exists(device.path) and os.path.samefile(image.path, device.path):
        raise FlashError(f"{device.path} is the image itself")
    if image.size > device.size:
        raise FlashError(f"{image.path} does not fit: it is {size(image.size)}, {device.path} is {size(device.size)}")  # fmt: skip
    if not options.yes:
        ask(image, device)
    try:
        write(image, device)
        verify(image, device)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise FlashError(f"{device.path}: {describe(error)}; what is on it now cannot be used") from error
    print(f"done: {device.path} holds {image.path}, read back and compared")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help tells more\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="scripts/rpi-flash",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s IMAGE DEVICE [--yes] [--force-file]",
        allow_abbrev=False,
    )
    parser.add_argument("image", help=argparse.SUPPRESS)
    parser.add_argument("device", help=argparse.SUPPRESS)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force-file", action="store_true", help="DEVICE is a plain file, to try this out")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    try:
        flash(parse(arguments), Machine())
    except FlashError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: stopped; if writing had begun, the card cannot be used now", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
