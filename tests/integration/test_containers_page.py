# SPDX-License-Identifier: Apache-2.0
"""The description that docs/containers.md shows, created and started as it stands there, but for the image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bridge_world import World, bridged
from containerd_server import ContainerdServer, private_containerd
from images import Image, base_layer, write_archive
from network_world import private_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "containers.md"


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        image = Image("registry.test/demo/seat:1.0", layers=[base_layer()])
        server.ctr("images", "import", write_archive(tmp_path / "app.tar", image))
        yield server


@pytest.fixture
def world(tmp_path: Path, containerd: ContainerdServer) -> Iterator[World]:
    with private_network() as machine, bridged(tmp_path, containerd, machine) as made:
        yield made


def inside(world: World, container_id: str, command: str) -> str:
    done = world.agent.pycm("exec", container_id, "/bin/sh", "-c", command)
    return done.stdout + done.stderr


def test_the_description_on_the_page_is_what_the_container_gets(world: World, tmp_path: Path) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "seat.json").write_text(text)
    agent = world.agent
    one = agent.cm("create", "--file", tmp_path / "seat.json")
    agent.cm("start", one)
    agent.wait_for(one, health="healthy")
    asked = inside(
        world, one, "echo $LEVEL $HOSTNAME; id -u; id -g; pwd; ulimit -Sn; ulimit -Hn; ls -d /machine/passwd"
    )
    assert asked.split() == ["info", "seat-host", "1000", "1000", "/tmp", "256", "512", "/machine/passwd"]
    assert "Read-only file system" in inside(world, one, "echo x >/machine/pycm-test")
    assert world.hosts(one)["broker"] == agent.get(one)["network_settings"]["networks"]["bridge"]["gateway"]
    host = agent.get(one)["host_config"]
    given = json.loads(text)["host_config"]
    assert host["restart_policy"] == {**given["restart_policy"], "retry_timeout": 30_000_000_000}
    assert host["log_config"] == given["log_config"]
    assert host["resources"] == {**given["resources"], "memory_swap": "128M"}
    assert any("30555" in rule for rule in world.machine.rules())
    agent.cm("stop", "-f", "-t", "1s", one)
    state = agent.state(one)
    assert (state["status"], state["exit_code"], agent.get(one)["restart_count"]) == (3, 137, 0)
