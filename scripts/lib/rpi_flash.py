# SPDX-License-Identifier: Apache-2.0
"""Write a disk image to an SD card, carefully.

scripts/rpi-flash IMAGE DEVICE [--yes] [--force-file]

IMAGE: .wic or .img, also packed as .bz2, .gz, .xz or .zst. It is read through once before anything is written: a
damaged image, or one that is shorter than its partition table says, costs no card. With a block map beside it
(IMAGE.bmap, or without the packer's suffix), bmaptool writes only what the map names. DEVICE: a whole disk (/dev/sdX,
/dev/mmcblkX) that is removable and not in use. After writing, the card is read back and compared.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import stat
import sys
from typing import IO, TYPE_CHECKING, NoReturn

from block_device import Device, FlashError, Machine
from disk_image import (
    CHUNK,
    DAMAGED,
    ChecksumError,
    Image,
    Progress,
    bmaptool,
    bmaptool_fed,
    check_image,
    chunks,
    describe,
    size,
    unpacked,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FLUSH_BUFFERS, READ_PARTITIONS = 0x1261, 0x125F  # BLKFLSBUF, BLKRRPART of linux/fs.h


def plain_file(path: str) -> Device:
    """A file of fixed size in place of a card; one that is not there yet grows to what is written."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return Device(path, sys.maxsize, "a new file")
    except OSError as error:
        raise FlashError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FlashError(f"{path} is not a plain file: --force-file is for files only")
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


def write(image: Image, device: Device, descriptor: int) -> None:
    """Write every byte, or with a block map those that it names, and fsync. Closes *descriptor*."""
    try:
        if image.bmap is None:
            with open(descriptor, "wb", buffering=0, closefd=False) as card:
                feed(image, lambda data: write_all(card, data))
            os.fsync(descriptor)  # the longest part on a slow card: what is written waits in memory
    finally:
        os.close(descriptor)
    if image.bmap is not None:
        with bmaptool_fed(image.bmap, device.path) as write:
            feed(image, write)


def feed(image: Image, target: Callable[[bytes], None]) -> None:
    """Give the unpacked image to *target*, piece by piece."""
    progress, written = Progress("writing", image.size), 0
    with unpacked(image.path) as stream:
        for data in chunks(stream):
            target(data)
            written += len(data)
            progress.at(written)
    progress.done(written)
    if written != image.size:
        raise FlashError(f"{image.path} changed while it was being written: start again")


def verify(image: Image, device: Device) -> None:
    """Read back from the medium, not from memory, and compare with the map's checksums or with the image's."""
    with open(device.path, "rb", buffering=0) as file:
        drop_cache(file)
        try:
            if image.bmap:
                bmaptool(image.bmap, device.path, os.devnull)
            else:
                compare(image, file)
        except ChecksumError as error:
            raise FlashError(f"{device.path} does not hold what was written: {error}; the card is bad, or the image changed") from error  # fmt: skip
        with contextlib.suppress(OSError):
            fcntl.ioctl(file, READ_PARTITIONS)


def compare(image: Image, file: IO[bytes]) -> None:
    progress = Progress("verifying", image.size)
    for at, digest in zip(range(0, image.size, CHUNK), image.digests, strict=True):
        data = read_exactly(file, min(CHUNK, image.size - at))
        if hashlib.sha256(data).hexdigest() != digest:
            raise ChecksumError(f"it differs from byte {at} on")
        progress.at(at)
    progress.done(image.size)


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
        raise FlashError("no terminal to ask on: add --yes")
    print("Type yes to continue: ", end="", flush=True)
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
    descriptor = opened(device)
    try:
        write(image, device, descriptor)
        verify(image, device)
    except (FlashError, *DAMAGED) as error:
        raise failure(error, device, find) from error
    print(f"done: {device.path} holds {image.path}, read back and compared")


def failure(error: Exception, device: Device, find: Callable[[str], Device]) -> FlashError:
    """Say first that the card is no longer there: the error that this causes says anything else."""
    try:
        find(device.path)
    except FlashError as gone:
        return FlashError(f"{device.path} was removed or changed while it was being written: {gone}")
    if isinstance(error, FlashError):
        return error
    return FlashError(f"{device.path}: {describe(error)}; what is on it now cannot be used")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


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
