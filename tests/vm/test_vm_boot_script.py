# SPDX-License-Identifier: Apache-2.0
"""The layer's boot script in U-Boot: which root slot it boots, and what it counts. There is no kernel: the machine ends after the choice."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import slot_disk
from guest_machine import run

from support import wks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.vm
LIMIT = 300
"""Seconds for one run of U-Boot; three on a free core."""
FIRST = "BOOT_ORDER=SDV_A SDV_B\nBOOT_SDV_A_LEFT=3\nBOOT_SDV_B_LEFT=3\n"
AFTER_UPDATE = "BOOT_ORDER=SDV_B SDV_A\nBOOT_SDV_A_LEFT=3\nBOOT_SDV_B_LEFT=3\n"


class Disk:
    """A disk with the layer's boot partition and nothing else."""

    def __init__(self, work: Path) -> None:
        self.work, self.file = work, work / "disk.wic"
        (self.part,) = [part for part in wks.read(slot_disk.WKS) if part.active]
        with self.file.open("wb") as made:
            made.truncate(wks.disk_size([self.part]))
        slot_disk.make_table(self.file, [self.part])
        slot_disk.make_script(work / "boot.scr")
        slot_disk.make_vfat(self.file, self.part, [work / "boot.scr"])

    def put(self, name: str, content: bytes) -> None:
        (self.work / name).write_bytes(content)
        run(["mcopy", "-o", "-i", self.place, str(self.work / name), "::"], timeout=60)

    def set(self, variables: str) -> None:
        text, made = self.work / "variables", self.work / "uboot.env"
        text.write_text(variables)
        run(["mkenvimage", "-s", slot_disk.PLACEHOLDERS["ENV_SIZE"], "-o", str(made), str(text)], timeout=60)
        self.put("uboot.env", made.read_bytes())

    @property
    def place(self) -> str:
        return f"{self.file}@@{self.part.start}"

    def boot(self) -> str:
        """What U-Boot prints, up to the reset that ends QEMU."""
        words = [
            "qemu-system-aarch64",
            "-M",
            "virt",
            "-cpu",
            "cortex-a72",
            "-m",
            "256",
            "-nodefaults",
            "-no-reboot",
        ]
        words += ["-display", "none", "-serial", "stdio", "-nic", "none", "-bios", str(slot_disk.FIRMWARE)]
        words += ["-drive", f"file={self.file},format=raw,if=virtio"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=True)  # fmt: skip
        return done.stdout

    def counted(self) -> list[str]:
        """RAUC's variables as fw_printenv finds them after the boot."""
        run(["mcopy", "-o", "-i", self.place, "::uboot.env", str(self.work)], timeout=60)
        conf = self.work / "fw_env.config"
        conf.write_text(f"{self.work}/uboot.env 0 {slot_disk.PLACEHOLDERS['ENV_SIZE']}\n")
        printed = run(["fw_printenv", "-c", str(conf)], timeout=60)
        return sorted(line for line in printed.splitlines() if line.startswith("BOOT_"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.mark.parametrize(
    ("before", "slot", "part", "after"),
    [
        ("", "SDV_A", 4, "SDV_A SDV_B/2/3"),
        (FIRST, "SDV_A", 4, "SDV_A SDV_B/2/3"),
        (AFTER_UPDATE, "SDV_B", 5, "SDV_B SDV_A/3/2"),
        (AFTER_UPDATE.replace("B_LEFT=3", "B_LEFT=1"), "SDV_B", 5, "SDV_B SDV_A/3/0"),
        (AFTER_UPDATE.replace("B_LEFT=3", "B_LEFT=0"), "SDV_A", 4, "SDV_B SDV_A/2/0"),
        (FIRST.replace("A_LEFT=3", "A_LEFT=0"), "SDV_B", 5, "SDV_A SDV_B/0/2"),
    ],
    ids=["no file yet", "first", "after an update", "last attempt of B", "B used up", "A used up"],
)  # fmt: skip
def test_boot_script_boots_the_first_slot_with_an_attempt_left(
    disk: Disk, before: str, slot: str, part: int, after: str
) -> None:
    if before:
        disk.set(before)
    assert f"pycm: booting {slot} from /dev/vda{part}\n" in disk.boot().replace("\r", "")
    order, first, second = after.split("/")
    assert disk.counted() == [f"BOOT_ORDER={order}", f"BOOT_SDV_A_LEFT={first}", f"BOOT_SDV_B_LEFT={second}"]


def test_boot_script_starts_over_when_no_slot_has_an_attempt_left(disk: Disk) -> None:
    disk.set("BOOT_ORDER=SDV_B SDV_A\nBOOT_SDV_A_LEFT=0\nBOOT_SDV_B_LEFT=0\n")
    printed = disk.boot()
    assert "no root slot has an attempt left" in printed
    assert "pycm: booting" not in printed
    assert disk.counted() == ["BOOT_ORDER=SDV_B SDV_A", "BOOT_SDV_A_LEFT=3", "BOOT_SDV_B_LEFT=3"]


def test_boot_script_boots_slot_a_when_its_environment_is_damaged(disk: Disk) -> None:
    disk.put("uboot.env", b"\1" * int(slot_disk.PLACEHOLDERS["ENV_SIZE"], 16))
    assert "pycm: booting SDV_A" in disk.boot()
    assert disk.counted() == ["BOOT_ORDER=SDV_A SDV_B", "BOOT_SDV_A_LEFT=2", "BOOT_SDV_B_LEFT=3"]
