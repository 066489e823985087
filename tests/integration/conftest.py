# SPDX-License-Identifier: Apache-2.0
"""What most integration tests want: a containerd with one image, an agent on it, a broker, a network of their own."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd
from images import IMAGE, Image, write_archive
from mosquitto_server import MosquittoServer
from network_world import Machine, private_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        archive = write_archive(tmp_path_factory.mktemp("image") / "app.tar", Image(IMAGE))
        server.ctr("images", "import", archive)
        yield server


@pytest.fixture(autouse=True)
def no_mounts_left(tmp_path: Path) -> Iterator[None]:
    """Unmount what an agent that was killed has left below the test's own directory, or that could not be removed."""
    yield
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file]
    for point in reversed([point for point in points if point.startswith(f"{tmp_path}/")]):
        subprocess.run(["umount", "--lazy", point], check=False)


@pytest.fixture
def agent(tmp_path: Path, containerd: ContainerdServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, containerd) as process:
        yield process


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoServer]:
    with MosquittoServer(tmp_path) as server:
        yield server


@pytest.fixture
def machine() -> Iterator[Machine]:
    with private_network() as network:
        yield network
