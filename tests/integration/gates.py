# SPDX-License-Identifier: Apache-2.0
"""Containers that end when a test says so, with the code that it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_server import wait_until
from images import IMAGE

if TYPE_CHECKING:
    from agent_process import AgentProcess

#: Runs until the gate opens, then ends with the code that is written there; once only, a next run goes on for ever.
GATED = "[ -e /gate/was ] && sleep 86400; while [ ! -e /gate/open ]; do sleep 0.05; done; >/gate/was; exit $(cat /gate/open)"


@dataclass
class Gate:
    """A container that ends when it is told to."""

    id: str
    directory: Path
    pid: int

    def open(self, code: int) -> None:
        """Let it end, and wait until it has."""
        (self.directory / "new").write_text(str(code))
        (self.directory / "new").rename(self.directory / "open")
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), 30, "the container ends")


def gated(agent: AgentProcess, name: str, *policy: str) -> Gate:
    directory = agent.directory / f"gate-{name}"
    directory.mkdir()
    flags = ("--rp", *policy, "--mp", f"{directory}:/gate")
    container_id = agent.run_container(IMAGE, "/bin/sh", "-c", GATED, name=name, flags=flags)
    return Gate(container_id, directory, agent.state(container_id)["pid"])
