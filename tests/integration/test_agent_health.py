# SPDX-License-Identifier: Apache-2.0
"""Health checks in real containers: the state shows them, and an unhealthy container is restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from images import Image, write_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

IMAGE = "registry.test/pycm/app:1.0"
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
CHECK = ("--health-cmd", "test -e /m/healthy", "--health-interval", "1s", "--health-retries", "1")


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        archive = write_archive(tmp_path_factory.mktemp("image") / "app.tar", Image(IMAGE))
        server.ctr("images", "import", archive)
        yield server


@pytest.fixture
def agent(tmp_path: Path, containerd: ContainerdServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, containerd) as process:
        yield process


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
