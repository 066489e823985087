# SPDX-License-Identifier: Apache-2.0
"""Health checks in real containers: the state shows them, and an unhealthy container is restarted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from bridge_world import FOREVER as ON_THE_BRIDGE
from bridge_world import SERVE, bridged
from containerd_server import ContainerdServer, wait_until
from images import IMAGE
from network_world import private_network

if TYPE_CHECKING:
    from pathlib import Path

    from agent_process import AgentProcess

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
CHECK = ("--health-cmd", "test -e /m/healthy", "--health-interval", "1s", "--health-retries", "1")


def test_a_container_that_turns_unhealthy_is_restarted_and_comes_back_healthy(
    agent: AgentProcess, tmp_path: Path
) -> None:
    mounted = tmp_path / "m"
    mounted.mkdir()
    (mounted / "healthy").touch()
    flags = ("--network", "host", "--rp", "on-failure", "--mp", f"{mounted}:/m", *CHECK)
    container_id = agent.cm("create", *flags, IMAGE, "/bin/sh", "-c", FOREVER)
    agent.cm("start", container_id)
    first = agent.wait_for(container_id, running=True)["pid"]
    wait_until(lambda: agent.state(container_id).get("health") == "healthy", 30, "it is healthy")
    (mounted / "healthy").unlink()
    wait_until(lambda: agent.get(container_id)["restart_count"] >= 1, 30, "it is restarted")
    (mounted / "healthy").touch()
    wait_until(lambda: agent.state(container_id).get("health") == "healthy", 30, "it is healthy again")
    assert agent.state(container_id)["pid"] != first
    agent.cm("stop", container_id)
    assert "health" not in agent.state(container_id)


def test_with_policy_no_an_unhealthy_container_is_shown_with_the_reason_and_left_running(
    agent: AgentProcess,
) -> None:
    command = "echo looking; printf 'no\\tway\\n' >&2; exit 7"
    flags = ("--health-cmd", command, "--health-interval", "1s", "--health-retries", "2")
    container_id = agent.run_container(IMAGE, "/bin/sh", "-c", FOREVER, flags=flags)
    first = agent.wait_for(container_id, health="unhealthy")
    assert (first["running"], first["health_error"].partition(": ")[0]) == (True, "exit code 7")
    assert sorted(first["health_error"].partition(": ")[2].split("\\n")) == ["looking", "no\\tway"]
    agent.kill()
    agent.start()
    found = agent.wait_for(container_id, health="unhealthy")
    assert found["pid"] == first["pid"]
    agent.cm("stop", container_id)


def test_a_check_that_takes_too_long_is_killed_with_all_it_started(agent: AgentProcess) -> None:
    command = "echo before; sleep 4711; true"
    check = ("--health-cmd", command, "--health-timeout", "500ms", "--health-retries", "1")
    container_id = agent.run_container(
        IMAGE, "/bin/sh", "-c", FOREVER, flags=(*check, "--health-interval", "1s")
    )
    state = agent.wait_for(container_id, health="unhealthy")
    assert "0.5 s" in state["health_error"]
    assert state["health_error"].endswith(": before")
    pid = state["pid"]
    agent.cm("pause", container_id)  # no check is being made now, nor will be
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        commands = [read_command(child) for child in file.read().split()]
    assert not [command for command in commands if "4711" in command]
    agent.cm("unpause", container_id)
    agent.cm("stop", container_id)


def test_check_that_prints_without_end_fails_in_time_and_holds_nothing_up(agent: AgentProcess) -> None:
    check = ("--health-cmd", "yes no way", "--health-timeout", "500ms", "--health-retries", "1")
    container_id = agent.run_container(
        IMAGE, "/bin/sh", "-c", FOREVER, flags=(*check, "--health-interval", "1s")
    )
    state = agent.wait_for(container_id, health="unhealthy")
    assert "0.5 s" in state["health_error"]
    assert "\\nno way\\n" in state["health_error"]
    agent.cm("stop", container_id)
    assert not list(agent.run.rglob(f"*{container_id}@*"))


def read_command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def test_a_port_on_the_bridge_is_healthy_while_it_takes_connections(
    containerd: ContainerdServer, tmp_path: Path
) -> None:
    with private_network() as machine, bridged(tmp_path, containerd, machine) as world:
        for name, script in (("web", SERVE), ("deaf", ON_THE_BRIDGE)):
            check = {"tcp": 80, "interval": "1s", "retries": 1}
            description = {
                "container_id": name,
                "image": {"name": IMAGE},
                "config": {"cmd": ["/bin/sh", "-c", script], "health_check": check},
                "host_config": {"restart_policy": {"type": "no"}},
            }
            (tmp_path / f"{name}.json").write_text(json.dumps(description))
            world.agent.cm("create", "--file", tmp_path / f"{name}.json")
            world.agent.cm("start", name)
        world.agent.wait_for("web", health="healthy")
        state = world.agent.wait_for("deaf", health="unhealthy")
        assert state["health_error"] == f"no connection to {world.address('deaf')}:80: Connection refused"
