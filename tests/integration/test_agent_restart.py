# SPDX-License-Identifier: Apache-2.0
"""Restart policies on a real containerd: what is started again, what stays down, and what a start that fails leads to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from connector import Connector
from containerd_server import wait_until
from images import IMAGE

from pycm.cli.agent import Agent

if TYPE_CHECKING:
    from containerd_server import ContainerdServer
    from mosquitto_server import MosquittoServer

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
GATED = "trap 'exit 143' TERM; while [ ! -e /m/open ]; do sleep 0.05; done; exit 4"


def start(agent: AgentProcess, script: str, *flags: str) -> str:
    container_id = agent.cm("create", "--network", "host", *flags, IMAGE, "/bin/sh", "-c", script)
    agent.cm("start", container_id)
    return container_id


def restarts(agent: AgentProcess, container_id: str) -> int:
    return int(agent.get(container_id)["restart_count"])


def others_would_be_back(agent: AgentProcess) -> None:
    """Return when a container that fails now has been started again twice: one that ended before would be back too."""
    witness = start(agent, "exit 1", "--rp", "always")
    wait_until(lambda: restarts(agent, witness) >= 2, 30, "the witness is restarted")
    agent.cm("remove", "-f", "-t", "1s", witness)


def test_on_failure_tries_as_often_as_it_may_and_a_start_by_hand_begins_anew(agent: AgentProcess) -> None:
    container_id = start(agent, "exit 3", "--rp", "on-failure", "--rp-cnt", "2")
    for _ in range(2):
        wait_until(lambda: restarts(agent, container_id) == 2, 30, "both tries are made")
        agent.wait_for(container_id, status=5, exit_code=3)
        others_would_be_back(agent)
        assert (restarts(agent, container_id), agent.state(container_id)["status"]) == (2, 5)
        agent.cm("start", container_id)
    for line in (
        "exited: exit code 3 (restart in 0.1 s)",
        "(automatic restart 2)",
        "exited: exit code 3 (not restarted: policy on-failure, 2 of 2 restarts used)",
    ):
        assert line in agent.text()


def test_container_that_cannot_be_started_is_told_from_a_stopped_one(agent: AgentProcess) -> None:
    made = agent.cm("create", "--network", "host", IMAGE, "/not/there")
    assert agent.call("start", made).returncode == 1
    state = agent.state(made)
    assert (state["status"], state["exit_code"]) == (3, 0), "as in the original"
    assert state["error"].startswith('exec: "/not/there": '), "the cause is first"
    assert state["error"].count("no such file or directory") == 1
    assert state["error"].endswith(" (never started)")
    own, theirs = agent.pycm("list").stdout, agent.cm("list")
    assert "|Never started" in own
    assert "|Stopped " in theirs
    assert f"container {made}: failed to start: " in agent.text()
    assert "(not restarted: start by hand)" in agent.text()


@pytest.mark.parametrize("policy", ["on-failure", "unless-stopped"])
def test_a_stop_by_hand_is_the_end_though_the_exit_code_says_failure(
    agent: AgentProcess, policy: str
) -> None:
    container_id = start(agent, FOREVER, "--rp", policy)
    agent.cm("stop", container_id)
    others_would_be_back(agent)
    state = agent.state(container_id)
    assert (state["status"], state["exit_code"], restarts(agent, container_id)) == (3, 143, 0)
    agent.end()
    agent.start()
    others_would_be_back(agent)
    assert agent.state(container_id)["status"] == 3


def test_always_is_back_after_a_stop_by_hand_unless_its_policy_is_changed_before(agent: AgentProcess) -> None:
    container_id = start(agent, FOREVER, "--rp", "always")
    agent.cm("stop", container_id)
    agent.wait_for(container_id, running=True)
    container = agent.get(container_id)
    assert (container["restart_count"], container["manually_stopped"]) == (1, False)
    agent.cm("update", "--rp", "unless-stopped", container_id)
    agent.cm("stop", container_id)
    others_would_be_back(agent)
    assert agent.state(container_id)["status"] == 3


@pytest.mark.parametrize("how", ["it ends while the agent runs", "the agent starts without it"])
def test_a_mount_that_comes_late_is_waited_for(agent: AgentProcess, tmp_path: Path, how: str) -> None:
    mounted = tmp_path / "m"
    mounted.mkdir()
    container_id = start(agent, GATED, "--rp", "on-failure", "--rp-cnt", "0", "--mp", f"{mounted}:/m")
    pid = agent.state(container_id)["pid"]
    absent = how == "the agent starts without it"
    if absent:
        agent.kill()
    mounted.rename(tmp_path / "away")
    (tmp_path / "away" / "open").touch()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "the container ends")
    if absent:
        agent.start()
    missing = f"mount source '{mounted}' does not exist on this machine (did not start again)"
    agent.wait_for(container_id, status=3, error=missing)
    wait_until(lambda: restarts(agent, container_id) >= 2, 30, "it is tried again")
    (tmp_path / "away" / "open").unlink()
    (tmp_path / "away").rename(mounted)
    state = agent.wait_for(container_id, running=True)
    assert state["error"] == ""
    agent.cm("stop", container_id)


def test_stop_in_the_restart_pause_is_the_end_from_every_front(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    with AgentProcess(tmp_path, containerd, broker) as agent, Connector(broker.port) as cloud:
        cloud.wait_for_twin()
        policies = (("always",), ("on-failure", "--rp-cnt", "0"), ("unless-stopped",))
        ids = [start(agent, "exit 7", "--rp", *policy) for policy in policies]
        wait_until(lambda: min(restarts(agent, name) for name in ids) >= 5, 60, "the pauses are long")
        by_command, by_call, by_twin = ids
        agent.cm("stop", by_command)
        Agent(str(agent.socket)).stop(by_call, timeout=0, force=False, signal="SIGTERM")
        assert cloud.ask(f"Container:{by_twin}", "stop") == (204, None)
        for container_id in ids:
            found = agent.get(container_id)
            assert (found["state"]["status"], found["state"]["exit_code"]) == (3, 7)
            assert found["manually_stopped"]
        cloud.until(lambda: cloud.status(by_twin)["state"]["status"] == "STOPPED", "the twin shows it")
        counts = [restarts(agent, container_id) for container_id in ids]
        wait_for_a_longer_pause(agent, max(counts))
        assert [restarts(agent, container_id) for container_id in ids] == counts
        assert agent.call("stop", by_command).stderr.endswith("with state: Stopped\n")


def wait_for_a_longer_pause(agent: AgentProcess, count: int) -> None:
    """Return when a container that began later has been restarted more often than *count*."""
    witness = start(agent, "exit 1", "--rp", "always")
    wait_until(lambda: restarts(agent, witness) > count, 120, "the witness is restarted")
