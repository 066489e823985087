# SPDX-License-Identifier: Apache-2.0
"""docs/network.md, its commands typed word by word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bridge_world import bridged
from containerd_server import ContainerdServer, private_containerd, wait_until
from images import IMAGE, Image, write_archive
from network_world import private_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs/network.md"


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        server.ctr("images", "import", write_archive(tmp_path / "app.tar", Image(IMAGE)))
        yield server


def typed() -> list[tuple[str, str]]:
    """The commands of the page, each with the output that is shown."""
    blocks = re.findall(r"(?ms)^```\n(.*?)^```$", PAGE.read_text())
    commands = [part for block in blocks for part in re.findall(r"(?m)^\$ (.+)\n((?:[^$\n].*\n)*)", block)]
    assert len(commands) == 5
    return commands


def test_the_provider_and_its_consumer_of_the_page(tmp_path: Path, containerd: ContainerdServer) -> None:
    with private_network() as machine, bridged(tmp_path, containerd, machine) as world:
        for command, shown in typed():
            words = shlex.split(command)
            if words[0] == "kanto-cm":
                world.agent.cm(*words[1:])
            else:
                assert machine.run(*words).stdout == shown
        (consumer,) = world.agent.cm("list", "-q", "-n", "consumer").split()
        wait_until(lambda: world.agent.logged(consumer) == ["hello"], 20, "the consumer reaches the provider")
