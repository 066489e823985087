# SPDX-License-Identifier: Apache-2.0
"""Read a wks file of the layer and place its partitions as wic does, so that a disk can be made without wic."""

from __future__ import annotations

import argparse
import re
import shlex
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

SECTOR = 512
MIB = 1024 * 1024
GPT_SECTORS = 34
"""Sectors of the partition table at the start of the disk, and room for its copy at the end, as wic counts them."""
SIZE_UNITS = {"K": 1024, "M": MIB, "G": 1024 * MIB}
PARTITION_TYPES = {
    "vfat": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    "ext4": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
}


@dataclass(frozen=True)
class Partition:
    """One `part` line. Positions are in bytes; number 0 is a region that the partition table does not name."""

    number: int
    label: str
    fstype: str
    start: int
    size: int
    active: bool
    source: str
    rootfs: str


class LineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def size(text: str) -> int:
    """Bytes of a size as wic writes it; without a unit it is in MiB."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r}")
    return int(found[1]) * SIZE_UNITS[found[2] or "M"]


def part_line() -> LineParser:
    """The options that the layer's files use. An unknown one is an error: it might change the layout."""
    parser = LineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--source", default="")
    parser.add_argument("--rootfs-dir", default="")
    parser.add_argument("--ondisk")
    parser.add_argument("--fstype", default="vfat", choices=sorted(PARTITION_TYPES))
    parser.add_argument("--label", default="")
    parser.add_argument("--align", type=int, default=0)
    parser.add_argument("--fixed-size", type=size, required=True)
    parser.add_argument("--active", action="store_true")
    parser.add_argument("--no-table", action="store_true")
    return parser


def read(path: Path) -> list[Partition]:
    """Return the partitions of a wks file in their order on the disk. Raises ValueError with the line that it cannot place."""
    partitions: list[Partition] = []
    parser, number, end = part_line(), 0, GPT_SECTORS * SECTOR
    for place, line in enumerate(path.read_text().splitlines(), 1):
        words = shlex.split(line, comments=True)
        if not words or words == ["bootloader", "--ptable", "gpt"]:
            continue
        try:
            if words[0] != "part":
                raise ValueError(f"unknown command {words[0]!r}")
            found = parser.parse_args(words[1:])
        except ValueError as error:
            raise ValueError(f"{path.name}:{place}: {error}") from error
        number += not found.no_table
        align = found.align * 1024 or SECTOR
        start = -(-end // align) * align
        end = start + found.fixed_size
        partitions.append(
            Partition(
                0 if found.no_table else number, found.label, found.fstype, start, found.fixed_size,
                found.active, found.source, found.rootfs_dir,
            )
        )  # fmt: skip
    return partitions


def disk_size(partitions: list[Partition]) -> int:
    last = partitions[-1]
    return last.start + last.size + GPT_SECTORS * SECTOR


def sfdisk_script(partitions: list[Partition], name: str) -> str:
    """Return the partition table as input of sfdisk. The ids depend on *name* only, so that equal input makes an equal disk."""
    lines = ["label: gpt", "unit: sectors", f"label-id: {identifier(name, 0)}", ""]
    for part in partitions:
        if part.number:
            attribute = ", attrs=LegacyBIOSBootable" if part.active else ""
            lines.append(
                f"{part.number}: start={part.start // SECTOR}, size={part.size // SECTOR}, "
                f"type={PARTITION_TYPES[part.fstype]}, uuid={identifier(name, part.number)}{attribute}"
            )
    return "\n".join(lines) + "\n"


def identifier(name: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{number}")).upper()
