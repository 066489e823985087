# SPDX-License-Identifier: Apache-2.0
"""One run of the guest for all its tests: it takes minutes, so what it observed is looked at from many sides."""

from __future__ import annotations

import json
from typing import Any

import boot_image
import guest_machine
import guest_payload
import pytest
from boot_story import Story, tell
from booted_machine import BootedMachine
from observed import Observed

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """`scripts/test` shows sections with this title even of a run in which nothing failed."""
    if STORY in config.stash:
        terminalreporter.section("report: boot")
        terminalreporter.write_line(config.stash[STORY].report())
