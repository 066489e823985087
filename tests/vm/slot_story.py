# SPDX-License-Identifier: Apache-2.0
"""What happens on the disk with two root slots, once; the tests look at what is noted down here.

First boot: U-Boot boots slot A; the records that an older image left on slot B come to the data partition; the containers of the
descriptors run. The power goes. Second boot: they run again, an update is installed on slot B, and the power goes as soon as RAUC has
said so. Third boot: U-Boot boots slot B with the same containers.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import slot_disk
from boot_story import Boot, look, ready, until
from guest_machine import run
from guest_payload import REPOSITORY

from support import wks

if TYPE_CHECKING:
    from pathlib import Path

    from booted_machine import BootedMachine

RUNNING = "[ $(kanto-cm list | grep -c Running) = 2 ]"
KANTO_RECORD = REPOSITORY / "tests/vectors/recorded/store-seat-config.json"
OLD_RECORD = "ba428775-741b-456b-8011-d0819bb02e8d"
"""The container of that record."""
CREATED = 1
"""Kanto's number for a container that nobody has started."""
INSTALL_LIMIT = 1800
"""Seconds of the host's time for an update; a minute on a free core."""


@dataclass
class SlotBoot(Boot):
    """Notes of one boot of a disk with slots."""

    command_line: list[str] = field(default_factory=list)
    version: str = ""
    mounts: dict[str, str] = field(default_factory=dict)
    rauc: dict[str, Any] = field(default_factory=dict)
    attempts: dict[str, str] = field(default_factory=dict)
    migration: str = ""


@dataclass
class SlotStory:
    first: SlotBoot = field(default_factory=SlotBoot)
    second: SlotBoot = field(default_factory=SlotBoot)
    third: SlotBoot = field(default_factory=SlotBoot)
    install: str = ""
    order: str = ""
    install_took: float = 0.0

    def report(self) -> str:
        """For people, and for CI's output."""
        walls = [f"{boot.wall:.0f} s" for boot in (self.first, self.second, self.third)]
        return f"three boots on this host, until all was looked at: {', '.join(walls)}; rauc install: {self.install_took:.0f} s"


def plant_record(disk: Path, image: Path) -> None:
    """A disk as it is after an update from Leda with Kanto: on slot B, not booted now, lies the record of a container."""
    (made,) = image.glob("*.wic")
    run(["cp", "--sparse=always", str(made), str(disk)], timeout=120)
    record = json.loads(KANTO_RECORD.read_text())
    record |= {"state": {"status": CREATED, "running": False}, "started_successfully_before": False}
    (slot,) = [part for part in wks.read(slot_disk.WKS) if part.label == "root_b"]
    home = "/var/lib/container-management"
    commands = [f"mkdir {home}/containers", f"mkdir {home}/containers/{OLD_RECORD}"]
    with tempfile.NamedTemporaryFile("w") as file:
        json.dump(record, file)
        file.flush()
        commands.append(f"write {file.name} {home}/containers/{OLD_RECORD}/config.json")
        for command in commands:
            run(["debugfs", "-w", "-R", command, f"{disk}?offset={slot.start}"], timeout=60)


def note(machine: BootedMachine, boot: SlotBoot) -> None:
    """Where this boot came from and what it runs, once RAUC has taken it for good."""
    until(machine, RUNNING, 240)
    until(machine, "systemctl is-active -q rauc-mark-good.service", 120)
    look(machine, boot)
    boot.command_line = machine.run("cat /proc/cmdline").split()
    boot.version = machine.run(". /etc/os-release; echo $IMAGE_VERSION")
    lines = [line.split() for line in machine.run("cat /proc/mounts").splitlines()]
    boot.mounts = {words[1]: f"{words[0]} {words[3].split(',')[0]}" for words in lines}
    boot.rauc = json.loads(machine.run("rauc status --output-format=json"))
    boot.attempts = dict(line.split("=", 1) for line in machine.run("fw_printenv | grep ^BOOT_").splitlines())
    boot.migration = machine.run("journalctl -u pycm-migrate-state.service -o cat --no-pager")


def power_on(machine: BootedMachine, boot: SlotBoot) -> None:
    began = time.monotonic()
    machine.power_on()
    ready(machine)
    note(machine, boot)
    boot.wall = time.monotonic() - began


def tell(machine: BootedMachine) -> SlotStory:
    story = SlotStory()
    power_on(machine, story.first)
    machine.power_cut()

    power_on(machine, story.second)
    began = time.monotonic()
    story.install = machine.run("rauc install /data/update.raucb", limit=INSTALL_LIMIT)
    story.install_took = time.monotonic() - began
    machine.power_cut()

    power_on(machine, story.third)
    return story
