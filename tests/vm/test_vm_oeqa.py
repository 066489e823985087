# SPDX-License-Identifier: Apache-2.0
"""The layer's runtime cases, which `bitbake -c testimage` runs against an image, against the Debian-based image: see oeqa_runner.py."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from boot_story import trees
from guest_machine import HERE

if TYPE_CHECKING:
    from boot_story import Story

pytestmark = pytest.mark.vm

NAMES = ("agent_is_up", "container_runs", "exit_code", "metrics", "power_cycle", "twin", "watchdog")
CASES = {f"pycm.PycmTest.test_{name}" for name in NAMES}
WAYS = {"played": (), **{release: ("--tree", str(tree)) for release, tree in trees().items()}}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_runner_passes_nothing_on_unreachable_machine(options: tuple[str, ...]) -> None:
    """Also shows that each release's oeqa finds the cases: no boot is needed for that."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        command = [sys.executable, str(HERE / "oeqa_runner.py"), str(taken.getsockname()[1]), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= CASES
    assert "passed" not in {result[0] for result in found.values()}


def test_runtime_cases_pass_with_played_and_real_oeqa(story: Story) -> None:
    assert "played" in story.cases
    for found in story.cases.values():
        assert set(found) - {"ssh.SSHTest.test_ssh"} == CASES
        assert {name: result for name, result in found.items() if result[0] != "passed"} == {}


def test_runtime_cases_fail_without_agent(story: Story) -> None:
    found = story.cases_without_agent
    assert set(found) == CASES
    assert found.pop("pycm.PycmTest.test_agent_is_up")[0] == "failed"
    assert {result[0] for result in found.values()} == {"skipped"}
