# SPDX-License-Identifier: Apache-2.0
"""A hundred containers, all of them created, started, listed, measured, stopped and removed at the same time; and more than the
agent may open files for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from crowd import Crowd, listing
from images import IMAGE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CONTAINERS = 100
TICKS = "trap 'exit 143' TERM; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.1; done"
#: Descriptors that an agent may keep beyond those it began with: a connection that is being closed, a worker's.
SPARE = 4


def descriptors(agent: AgentProcess) -> int:
    assert agent.process
    return len(os.listdir(f"/proc/{agent.process.pid}/fd"))


def test_a_hundred_containers_live_their_lives_at_once(tmp_path: Path, containerd: ContainerdServer) -> None:
    with AgentProcess(tmp_path, containerd) as agent:
        crowd = Crowd(str(agent.socket), IMAGE, CONTAINERS)
        agent.run_container(IMAGE, "/bin/true", name="warm-up")
        before = descriptors(agent)
        crowd.create()
        with listing(crowd.socket) as answers:
            crowd.start()
        assert len(answers) > 5, "List was answered all the while"
        running = {
            line.split()[0] for line in containerd.ctr("tasks", "ls").splitlines() if "RUNNING" in line
        }
        assert running == set(crowd.ids)
        sample = json.loads(agent.pycm("stats", "--no-stream", "--format", "json").stdout)
        measured = {one["container_id"]: one for one in sample["containers"]}
        assert measured.keys() == set(crowd.ids)
        assert all(one["memory_used_bytes"] > 0 and one["pids"] > 1 for one in measured.values())
        crowd.stop()
        for container_id in crowd.ids[:: CONTAINERS // 10]:
            state = agent.state(container_id)
            assert (state["status"], state["exit_code"]) == (3, 143)
        assert containerd.ctr("tasks", "ls", "-q").split() == []
        crowd.remove()
        assert len(agent.ids()) == 1
        assert containerd.ctr("containers", "ls", "-q").split() == []
        assert not [name for name in crowd.ids if f"{name}-snapshot" in containerd.ctr("snapshots", "ls")]
        assert len(list((agent.home / "containers").iterdir())) == 1
        assert not list((agent.run / "fifo").iterdir())
        wait_until(lambda: descriptors(agent) <= before + SPARE, 30, "descriptors are as before")


def test_at_the_limit_of_open_files_a_start_is_refused_and_all_else_goes_on(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    limit = ("prlimit", "--nofile=100:100")
    with AgentProcess(tmp_path, containerd, inside=limit) as agent:
        running: list[str] = []
        while True:
            container_id = agent.cm(
                "create", "--network", "host", "--rp", "no", IMAGE, "/bin/sh", "-c", TICKS
            )
            done = agent.call("start", container_id)
            if done.returncode != 0:
                break
            running.append(container_id)
            assert len(running) < 30, "the limit is reached"
        assert "Too many open files" in done.stderr
        assert done.stderr.count("\n") == 1
        clients = [agent.popen("list", "-q") for _ in range(20)]  # more than there are descriptors for
        assert {client.communicate(timeout=120)[0] for client in clients} == {
            f"{' '.join([*running, container_id])}\n"
        }
        spoken = {one: len(agent.logged(one)) for one in running}
        for one in running:
            wait_until(lambda: len(agent.logged(one)) > spoken[one], 30, "its log goes on")  # noqa: B023
        agent.cm("stop", running[0])
        agent.cm("start", container_id)
        for one in (*running[1:], container_id):
            assert agent.state(one)["running"]
            agent.cm("stop", one)
            lines = agent.logged(one)
            assert lines == [f"tick {n}" for n in range(1, len(lines) + 1)]
