# SPDX-License-Identifier: Apache-2.0
"""The layer's disk layout, U-Boot script and RAUC configuration on a disk that boots: slots, power cuts, an update, a card."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from guest_payload import REPOSITORY
from slot_story import OLD_RECORD

if TYPE_CHECKING:
    from pathlib import Path

    from booted_machine import BootedMachine
    from slot_story import SlotBoot, SlotStory

pytestmark = pytest.mark.vm


def boots(story: SlotStory) -> list[SlotBoot]:
    return [story.first, story.second, story.third]


def running(boot: SlotBoot) -> set[str]:
    return {name for name, state in boot.containers.items() if state == "Running"}


def test_slots_u_boot_boots_slot_a_until_an_update_chooses_b(slots: SlotStory) -> None:
    assert ["rauc.slot=SDV_A" in boot.command_line for boot in boots(slots)] == [True, True, False]
    assert "rauc.slot=SDV_B" in slots.third.command_line
    assert [boot.version for boot in boots(slots)] == ["1", "1", "2"]
    assert [boot.mounts["/"] for boot in boots(slots)] == ["/dev/vda4 ro", "/dev/vda4 ro", "/dev/vda5 ro"]


def test_slots_state_lies_on_the_data_partition(slots: SlotStory) -> None:
    for boot in boots(slots):
        assert boot.mounts["/data"] == "/dev/vda6 rw"
        assert boot.mounts["/var/lib/container-management"] == "/dev/vda6 rw"


def test_slots_containers_of_the_descriptors_run_after_each_boot(slots: SlotStory) -> None:
    for boot in boots(slots):
        assert len(boot.tasks) == 2
        assert boot.unit["ActiveState"] == "active"
        assert boot.failed_units == ""


def test_slots_keep_the_same_containers_over_power_cut_and_update(slots: SlotStory) -> None:
    assert len(running(slots.first)) == 2
    assert slots.second.containers == slots.first.containers
    assert slots.third.containers == slots.first.containers


def test_slots_update_is_installed_and_survives_a_power_cut(slots: SlotStory) -> None:
    assert "succeeded" in slots.install
    assert slots.third.rauc["booted"] == "SDV_B"
    assert slots.third.rauc["boot_primary"] == "rootfs.1"
    assert slots.third.attempts["BOOT_ORDER"] == "SDV_B SDV_A"


def test_slots_are_marked_good_once_the_agent_is_ready(slots: SlotStory) -> None:
    for boot in boots(slots):
        assert (boot.attempts["BOOT_SDV_A_LEFT"], boot.attempts["BOOT_SDV_B_LEFT"]) == ("3", "3")


def test_slots_records_of_an_older_image_move_to_the_data_partition_once(slots: SlotStory) -> None:
    assert "copied 1 container records from root slot /dev/vda5" in slots.first.migration
    assert slots.first.containers[OLD_RECORD] == "Created"
    assert "copied" not in slots.second.migration + slots.third.migration


def test_slots_disk_is_written_to_a_device_and_read_back_equal(
    slots: SlotStory, slots_machine: BootedMachine, tmp_path: Path
) -> None:
    """The disk as three boots and an update left it, by its block map, to a loop device."""
    disk = tmp_path / "disk.wic"  # the name says to rpi-flash what it is
    disk.symlink_to(slots_machine.disk)
    run("bmaptool", "create", "-o", f"{disk}.bmap", disk)
    card = tmp_path / "card"
    with card.open("wb") as file:
        file.truncate(slots_machine.disk.stat().st_size)
    device = run("losetup", "--find", "--show", card)
    try:
        printed = run(REPOSITORY / "scripts/rpi-flash", disk, device, "--yes")
    finally:
        run("losetup", "--detach", device)
    assert "read back and compared" in printed
    assert card.stat().st_blocks * 512 < card.stat().st_size // 2  # only what the map names was written
    run("cmp", disk, card)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)  # fmt: skip
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
