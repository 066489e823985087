# SPDX-License-Identifier: Apache-2.0
"""A hundred containers, all of them created, started, listed, measured, stopped and removed at the same time."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd
from crowd import Crowd, listing
from images import Image, write_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

IMAGE = "registry.test/pycm/app:1.0"
CONTAINERS = 100
#: Descriptors that an agent may keep beyond those it began with: a connection that is being closed, a worker's.
SPARE = 4


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        archive = write_archive(tmp_path_factory.mktemp("image") / "app.tar", Image(IMAGE))
        server.ctr("images", "import", archive)
        yield server


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
        assert descriptors(agent) <= before + SPARE
