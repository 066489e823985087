# SPDX-License-Identifier: Apache-2.0
"""One run of the guest for all its tests: it takes minutes, so what it observed is looked at from many sides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boot_image
import guest_machine
import guest_payload
import pytest
import slot_disk
import slot_story
from boot_story import Story, tell
from booted_machine import BootedMachine
from observed import Observed

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = "registry.test/demo/busybox:1"
LIMIT = 900
"""Seconds for the whole run; two to three minutes on two free cores."""


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    tree = tmp_path_factory.mktemp("guest-app")
    results = tmp_path_factory.mktemp("guest-results")
    guest_payload.payload(tree, guest_machine.image(), REFERENCE)
    code = guest_machine.boot(tree, results, LIMIT)
    assert code == 0, f"the guest's program ended with {code}:\n{report(results)}"
    raw: dict[str, Any] = json.loads((results / "observed.json").read_text())
    return Observed(raw)


def report(results: Any) -> str:
    """The ends of all logs that the guest left."""
    parts = []
    for path in sorted((*results.glob("*.log"), *results.glob("console.txt"))):
        lines = path.read_text(errors="replace").splitlines()[-60:]
        parts.append("\n".join([f"── {path.name}", *lines]))
    return "\n".join(parts)


STORY = pytest.StashKey[Story]()


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Story:
    """The machine that boots systemd. It is off when this returns: another guest's CPU figures need a host that is not busy."""
    machine = BootedMachine(tmp_path_factory.mktemp("boot"), boot_image.image())
    try:
        told = pytestconfig.stash[STORY] = tell(machine)
    finally:
        machine.power_cut()
        machine.disk.unlink(missing_ok=True)
    return told


SLOTS = pytest.StashKey[slot_story.SlotStory]()


@pytest.fixture(scope="session")
def slots_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    """A disk with two root slots. Off, but for the time of its story."""
    machine = BootedMachine(tmp_path_factory.mktemp("slots"), slot_disk.disk())
    slot_story.plant_record(machine.disk, machine.image)
    yield machine
    machine.disk.unlink()


@pytest.fixture(scope="session")
def slots(slots_machine: BootedMachine, pytestconfig: pytest.Config) -> slot_story.SlotStory:
    try:
        told = pytestconfig.stash[SLOTS] = slot_story.tell(slots_machine)
    finally:
        slots_machine.power_cut()
    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """`scripts/test` shows sections with this title even of a run in which nothing failed."""
    for key, title in ((STORY, "boot"), (SLOTS, "slots")):
        if key in config.stash:
            terminalreporter.section(f"report: {title}")
            terminalreporter.write_line(config.stash[key].report())
