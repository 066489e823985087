# SPDX-License-Identifier: Apache-2.0
"""Read a disk's partition table, MBR or GPT, to learn how large the disk must be: a truncated image looks whole to all
other checks.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from block_device import FlashError

SECTOR = 512
PROTECTIVE = 0xEE
"""Type of the MBR entry of a disk with a GPT."""
UNUSED = bytes(16)
"""Type of a GPT entry without a partition."""
MAX_ENTRIES_SIZE = 1 << 20


@dataclass(frozen=True)
class Table:
    """What a partition table requires, in bytes from the start of the disk."""

    end: int
    """Least size of the disk: the end of the last partition, or of the backup GPT header."""
    backup: int | None = None
    """Place of the backup GPT header."""


def parse(start: bytes) -> Table:
    """Read the table at the start of a disk. Raises FlashError if it is missing or damaged."""
    if start[510:512] != b"\x55\xaa" or any(start[446 + 16 * n] & 0x7F for n in range(4)):
        raise FlashError("it begins without a partition table")
    entries = [struct.unpack_from("<4xB3xLL", start, 446 + 16 * n) for n in range(4)]
    used = [(kind, first + count) for kind, first, count in entries if count]
    if not used:
        raise FlashError("its partition table has no partitions")
    end = max((sectors * SECTOR for kind, sectors in used if kind != PROTECTIVE), default=0)
    if all(kind != PROTECTIVE for kind, _ in used):
        return Table(end)
    gpt = parse_gpt(start)
    return Table(max(end, gpt.end), gpt.backup)


def parse_gpt(start: bytes) -> Table:
    alternate, place, count, step, checksum = header(start[SECTOR : 2 * SECTOR], 1)
    length = count * step
    if step < 128 or length > MAX_ENTRIES_SIZE or place * SECTOR + length > len(start):
        raise FlashError("its GPT is damaged: no room for the partitions")
    entries = start[place * SECTOR : place * SECTOR + length]
    if zlib.crc32(entries) != checksum:
        raise FlashError("its GPT is damaged: wrong checksum of the partitions")
    end = alternate + 1
    for at in range(0, length, step):
        if entries[at : at + 16] != UNUSED:
            end = max(end, struct.unpack_from("<Q", entries, at + 40)[0] + 1)
    return Table(end * SECTOR, alternate * SECTOR)


def check_backup(sector: bytes, table: Table) -> None:
    """The backup header must be where the first header says, and point back to it."""
    assert table.backup is not None
    if header(sector, table.backup // SECTOR)[0] != 1:
        raise FlashError("its backup GPT header is damaged: it does not name the first header")


def header(sector: bytes, own: int) -> tuple[int, int, int, int, int]:
    """Return the other header's place; place, number, size and checksum of the entries. *own*: this header's place."""
    name = "GPT header" if own == 1 else "backup GPT header"
    signature, length, checksum, place, other = struct.unpack_from("<8s4xLL4xQQ", sector.ljust(SECTOR, b"\0"))
    if signature != b"EFI PART":
        raise FlashError(f"it has no {name} in sector {own}")
    content = bytearray(sector[:length])
    content[16:20] = bytes(4)
    if not 92 <= length <= SECTOR or zlib.crc32(content) != checksum or place != own:
        raise FlashError(f"its {name} in sector {own} is damaged")
    return (other, *struct.unpack_from("<QLLL", sector, 72))
