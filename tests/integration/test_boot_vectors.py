# SPDX-License-Identifier: Apache-2.0
"""The conformance cases of the area boot, on a real agent and containerd: what an agent that starts makes of stored containers.

What a start of the agent tells is told before anybody can listen: the events of these cases are in `test_containers_restore.py`.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from containerd_server import wait_until
from images import IMAGE

if TYPE_CHECKING:
    from agent_process import AgentProcess

pytestmark = pytest.mark.integration

VECTORS = [
    vector
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "runtime.json").read_text())
    if vector["area"] == "boot"
]
FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
STATUS = {"Created": 1, "Running": 2, "Stopped": 3, "Paused": 4, "Exited": 5}
#: What level "fix" says instead: a lost task counts as a failure.
MENDED = {"boot-lost-task": {"exit_code": 255}}


def reach(agent: AgentProcess, name: str, given: dict[str, Any]) -> None:
    """A container in the given state, and an agent that has ended; its policy is given to it then, so that it does nothing yet."""
    command = ("--network", "host", "--rp", "no", "-n", name, IMAGE, "/bin/sh", "-c", FOREVER)
    container_id = agent.cm("create", *command)
    for step in {"Created": (), "Running": ("start",), "Stopped": ("start", "stop")}[given["status"]]:
        agent.cm(step, container_id)
    pid = agent.state(container_id)["pid"]
    agent.end(signal.SIGKILL if given["status"] == "Running" else signal.SIGTERM)
    file = agent.home / "containers" / container_id / "config.json"
    record = json.loads(file.read_text())
    record["host_config"]["restart_policy"]["type"] = given["policy"]
    file.write_text(json.dumps(record))
    for key in given.keys() & {"manually_stopped", "started_successfully_before"}:
        assert record[key] == given[key]
    if not given.get("task_alive", True):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "the process ends")
        agent.containerd.ctr("tasks", "rm", container_id)


def witnessed(agent: AgentProcess, name: str) -> str:
    """A running container that comes back with the agent, and only after *name* would, whom its hosts name."""
    command = ("--hosts", f"peer:container_{name}-host", "-n", "zz", IMAGE, "/bin/sh", "-c", FOREVER)
    container_id = agent.cm("create", "--network", "host", *command)
    agent.cm("start", container_id)
    return container_id


def found(agent: AgentProcess, container_id: str, key: str) -> Any:
    container = agent.get(container_id)
    if key == "started":
        return container["state"]["running"]
    if key == "status":
        return next(word for word, number in STATUS.items() if number == container["state"]["status"])
    return {**container, **container["state"]}[key]


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in VECTORS])
def test_boot(vector: dict[str, Any], agent: AgentProcess) -> None:
    witness = witnessed(agent, vector["name"])
    pid = agent.state(witness)["pid"]
    reach(agent, vector["name"], vector["given"])
    agent.containerd.ctr("tasks", "kill", "-s", "KILL", witness)
    agent.start()
    wait_until(lambda: agent.state(witness)["pid"] not in (pid, -1), 30, "all that is due has been started")
    container_id = agent.cm("list", "-q", "-n", vector["name"])
    expect = {**vector["expect"], **MENDED.get(vector["name"], {})}
    assert (vector["level"] == "fix") == (vector["name"] in MENDED)
    for key, wanted in expect.items():
        if key == "events":
            continue
        value = found(agent, container_id, key)
        assert value if wanted == "<non-empty>" else value == wanted, f"{key}: {value!r}, wanted {wanted!r}"
