# SPDX-License-Identifier: Apache-2.0
"""Which disks may be overwritten, from made-up /sys and /proc trees as the kernel has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SECTORS = 62_333_952


class Disks:
    """A machine's disks, as directories and links."""

    def __init__(self, root: Path, machine: Any) -> None:
        self.root, self.machine = root, machine
        for directory in ("sys/class/block", "sys/dev/block", "sys/devices", "proc/self"):
            (root / directory).mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text("21 1 252:1 / / rw - ext4 /dev/vda1 rw\n")
        (root / "proc/swaps").write_text("Filename Type Size Used Priority\n")

    def add(self, name: str, number: str, *, parent: str = "", **values: object) -> None:
        directory = self.root / "sys/devices" / parent / name
        (directory / "holders").mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        if parent:
            (directory / "partition").write_text("1\n")
        for key, value in {"size": SECTORS, "ro": 0, "removable": 1, **values}.items():
            path = directory / key.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{value}\n")
        (self.root / "sys/class/block" / name).symlink_to(directory)
        (self.root / "sys/dev/block" / number).symlink_to(directory)

    def check(self, name: str, number: str) -> Any:
        return self.machine.check(f"/dev/{name}", number)


@pytest.fixture
def disks(scripts_lib: None, tmp_path: Path) -> Disks:
    import block_device

    return Disks(tmp_path, block_device.Machine(str(tmp_path)))


@pytest.fixture
def refused(scripts_lib: None) -> Any:
    import block_device

    return lambda reason: pytest.raises(block_device.FlashError, match=reason)


@pytest.fixture
def stick(disks: Disks) -> Disks:
    disks.add("sdb", "8:16", device__vendor="Acme   ", device__model="Reader")
    disks.add("sdb1", "8:17", parent="sdb")
    disks.add("sdb2", "8:18", parent="sdb")
    return disks


def test_a_removable_disk_is_described_with_size_and_model(stick: Disks) -> None:
    device = stick.check("sdb", "8:16")
    assert (device.size, device.description) == (SECTORS * 512, "Acme Reader")


def test_a_card_in_the_machines_own_slot_counts_as_removable(disks: Disks) -> None:
    disks.add("mmcblk0", "179:0", removable=0, device__type="SD", device__name="SU32G")
    assert disks.check("mmcblk0", "179:0").description == "SU32G"


def test_a_loop_device_counts_as_removable(disks: Disks) -> None:
    disks.add("loop3", "7:3", removable=0)
    assert disks.check("loop3", "7:3").size == SECTORS * 512


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sda", {"removable": 0}),
        ("nvme0n1", {"removable": 0}),
        ("mmcblk1", {"removable": 0, "device__type": "MMC"}),
    ],
)
def test_a_disk_that_is_built_in_is_refused(
    disks: Disks, refused: Any, name: str, values: dict[str, object]
) -> None:
    disks.add(name, "8:0", **values)
    with refused("is not removable"):
        disks.check(name, "8:0")


def test_a_partition_is_refused_and_its_disk_named(stick: Disks, refused: Any) -> None:
    with refused("/dev/sdb1 is a partition: name the whole disk, /dev/sdb$"):
        stick.check("sdb1", "8:17")


def test_a_locked_card_is_refused(disks: Disks, refused: Any) -> None:
    disks.add("sdb", "8:16", ro=1)
    with refused("lock switch"):
        disks.check("sdb", "8:16")


def test_an_empty_reader_is_refused(disks: Disks, refused: Any) -> None:
    disks.add("sdb", "8:16", size=0)
    with refused("is there a card"):
        disks.check("sdb", "8:16")


@pytest.mark.parametrize(("number", "name"), [("8:16", "sdb"), ("8:18", "sdb2")])
def test_a_disk_with_something_mounted_is_refused(stick: Disks, refused: Any, number: str, name: str) -> None:
    with (stick.root / "proc/self/mountinfo").open("a") as file:
        file.write(f"40 21 {number} / /media/card rw - vfat /dev/x rw\n")
    with refused(f"/dev/{name} is mounted on /media/card"):
        stick.check("sdb", "8:16")


def test_a_disk_with_swap_space_is_refused(stick: Disks, refused: Any) -> None:
    with (stick.root / "proc/swaps").open("a") as file:
        file.write("/dev/sdb2 partition 1024 0 -2\n")
    with refused("/dev/sdb2 is swap space"):
        stick.check("sdb", "8:16")


def test_a_disk_that_is_part_of_a_volume_is_refused(stick: Disks, refused: Any) -> None:
    (stick.root / "sys/class/block/sdb1/holders/dm-0").mkdir()
    with refused("/dev/dm-0 is made of /dev/sdb1"):
        stick.check("sdb", "8:16")


def test_a_machine_that_does_not_tell_what_is_mounted_is_refused(stick: Disks, refused: Any) -> None:
    (stick.root / "proc/self/mountinfo").unlink()
    with refused("cannot see what is in use"):
        stick.check("sdb", "8:16")
