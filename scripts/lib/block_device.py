# SPDX-License-Identifier: Apache-2.0
"""Find out from /sys and /proc what a block device is and whether it may be overwritten. Changes nothing."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


class FlashError(Exception):
    """The reason for writing nothing, or for not trusting what was written: one line for the user."""


@dataclass(frozen=True)
class Device:
    """A whole disk."""

    path: str
    size: int
    description: str


class Machine:
    """The kernel's view of the disks. Tests set *root*."""

    def __init__(self, root: str = "/") -> None:
        self.block = Path(root, "sys/class/block")
        self.by_number = Path(root, "sys/dev/block")
        self.mounts = Path(root, "proc/self/mountinfo")
        self.swaps = Path(root, "proc/swaps")

    def whole_disk(self, path: str) -> Device:
        """Return the disk at *path*; raise FlashError unless it may be overwritten."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise FlashError(f"{path}: {error.strerror}") from error
        if not stat.S_ISBLK(status.st_mode):
            raise FlashError(f"{path} is not a block device (to write into a plain file, add --force-file)")
        return self.check(path, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")

    def check(self, path: str, number: str) -> Device:
        name = (self.by_number / number).resolve().name
        disk = self.block / name
        if (disk / "partition").exists():
            raise FlashError(f"{path} is a partition: name the whole disk, {self.parent(name)}")
        if not self.replaceable(name):
            raise FlashError(f"{path} is not removable: only cards, sticks and loop devices are written to")
        if self.text(disk / "ro") == "1":
            raise FlashError(f"{path} is read-only: is the card's lock switch on?")
        size = int(self.text(disk / "size") or 0) * 512
        if not size:
            raise FlashError(f"{path} has no medium: is there a card in the reader?")
        self.refuse_used(path, name)
        model = " ".join(filter(None, (self.text(disk / "device/vendor"), self.text(disk / "device/model"), self.text(disk / "device/name"))))  # fmt: skip
        return Device(path, size, model or name)

    def replaceable(self, name: str) -> bool:
        """Return whether it is removable. A built-in SD slot is not marked so; its card's type is SD."""
        disk = self.block / name
        return (
            self.text(disk / "removable") == "1"
            or name.startswith("loop")
            or (name.startswith("mmcblk") and self.text(disk / "device/type") == "SD")
        )

    def refuse_used(self, path: str, name: str) -> None:
        """Raise FlashError if the disk is mounted, used for swap, or part of a larger device."""
        parts = [name, *sorted(self.partitions(name))]
        numbers = {self.text(self.block / part / "dev"): part for part in parts}
        for line in self.lines(self.mounts):
            words = line.split()
            if words[2] in numbers:
                raise FlashError(f"{path} is in use: /dev/{numbers[words[2]]} is mounted on {words[4]}; unmount it first")  # fmt: skip
        for line in self.lines(self.swaps)[1:]:
            if os.path.basename(line.split()[0]) in parts:
                raise FlashError(f"{path} is in use: {line.split()[0]} is swap space; swapoff first")
        for part in parts:
            holders = self.block / part / "holders"
            held = sorted(holders.iterdir()) if holders.is_dir() else []
            if held:
                raise FlashError(f"{path} is in use: /dev/{held[0].name} is made of /dev/{part}")

    def partitions(self, name: str) -> list[str]:
        disk = (self.block / name).resolve()
        return [entry.name for entry in disk.iterdir() if (entry / "partition").exists()] if disk.is_dir() else []  # fmt: skip

    def parent(self, partition: str) -> str:
        return f"/dev/{(self.block / partition).resolve().parent.name}"

    @staticmethod
    def text(path: Path) -> str:
        try:
            return path.read_text(errors="replace").strip()
        except OSError:
            return ""

    @staticmethod
    def lines(path: Path) -> list[str]:
        try:
            return path.read_text(errors="replace").splitlines()
        except OSError as error:
            raise FlashError(f"cannot see what is in use: {path}: {error.strerror}") from error
