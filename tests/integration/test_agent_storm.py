# SPDX-License-Identifier: Apache-2.0
"""A container that writes as fast as it can while the agent is killed again and again: every line is kept, once, in order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from images import IMAGE

pytestmark = pytest.mark.integration

LINES, KILLS = 200_000, 5
#: Long lines: what waits for an absent agent, 1 MiB, is a small part of all.
TEXT = "of a container that does not wait for anybody, least of all for an agent that is away"
STORM = f'n=0; while [ $n -lt {LINES} ]; do n=$((n+1)); echo "line $n {TEXT}"; done'


def launch(agent: AgentProcess) -> None:
    """Start the agent without waiting for its API: it may be killed before that answers."""
    command = [sys.executable, "-m", "pycm", "daemon", "--cfg-file", str(agent.config)]
    with open(agent.log, "ab") as log:
        agent.process = subprocess.Popen(command, stdout=log, stderr=log)


def written(agent: AgentProcess, container_id: str) -> int:
    """Number of the youngest line in the log; a rotation in this moment reads as none."""
    try:
        with open(agent.home / "containers" / container_id / "json.log", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 1000))
            lines = file.read().split(b"\n")[1:-1]
            return int(json.loads(lines[-1])["log"].split()[1]) if lines else 0
    except FileNotFoundError:
        return 0


def test_two_hundred_thousand_lines_survive_five_kills_of_the_agent(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd) as agent:
        flags = ("--log-max-size", "2M", "--log-max-files", "100")
        container_id = agent.run_container(IMAGE, "/bin/sh", "-c", STORM, flags=flags)
        pid = agent.state(container_id)["pid"]
        for number in range(1, KILLS + 1):
            goal = number * LINES // (2 * KILLS)  # it speaks on while it is away for the last time
            wait_until(lambda: written(agent, container_id) >= goal, 60, f"line {goal} is logged")  # noqa: B023
            agent.kill()
            assert Path(f"/proc/{pid}").exists(), "the container was killed too, or had no agent to wait for"
            launch(agent)
        wait_until(lambda: agent.call("list", "-q").returncode == 0, 60, "the last agent answers")
        state = agent.wait_for(container_id, status=5)
        assert (state["exit_code"], state["error"]) == (0, "")
        expected = [f"line {n} {TEXT}" for n in range(1, LINES + 1)]
        wait_until(lambda: written(agent, container_id) == LINES, 60, "the last line is logged")
        logged = agent.logged(container_id)
        first = next((pair for pair in zip(logged, expected, strict=False) if pair[0] != pair[1]), None)
        assert first is None, "the first line that is not as it should be"
        assert len(logged) == LINES
        directory = agent.home / "containers" / container_id
        assert len(list(directory.glob("json.log.*"))) > KILLS, "the log was rotated all the while"
