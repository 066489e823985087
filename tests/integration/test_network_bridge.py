# SPDX-License-Identifier: Apache-2.0
"""The bridge network, on the real CNI plugins and packet filter, in a network namespace of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd
from images import Image, write_archive
from network_world import Machine, private_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

IMAGE = "registry.test/pycm/app:1.0"
SERVE = "echo $HOSTNAME >/tmp/name; exec busybox httpd -f -p 80 -h /tmp"
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        archive = write_archive(tmp_path_factory.mktemp("image") / "app.tar", Image(IMAGE))
        server.ctr("images", "import", archive)
        yield server


@pytest.fixture
def machine() -> Iterator[Machine]:
    with private_network() as network:
        yield network


class World:
    """An agent in a network of its own."""

    def __init__(self, agent: AgentProcess, machine: Machine) -> None:
        self.agent, self.machine = agent, machine

    def create(self, name: str, script: str, *, policy: str = "no", **host: Any) -> str:
        """A container with its name as its id, on the bridge; *host*: parts of host_config."""
        file = self.agent.directory / f"{name}.json"
        description = {
            "container_id": name,
            "container_name": name,
            "image": {"name": IMAGE},
            "host_config": {"network_mode": "bridge", "restart_policy": {"type": policy}, **host},
            "config": {"cmd": ["/bin/sh", "-c", script]},
        }
        file.write_text(json.dumps(description))
        self.agent.cm("create", "--file", file)
        return name

    def start(self, name: str, script: str = FOREVER, **host: Any) -> str:
        self.create(name, script, **host)
        self.agent.cm("start", name)
        return self.address(name)

    def address(self, name: str) -> str:
        found: str = self.agent.get(name)["network_settings"]["networks"]["bridge"]["ip_address"]
        return found

    def inside(self, name: str, *command: str) -> str:
        """Run a program of this machine in the container's network."""
        pid = self.agent.state(name)["pid"]
        return self.machine.run("nsenter", f"--net=/proc/{pid}/ns/net", *command).stdout

    def hosts(self, name: str) -> dict[str, str]:
        """The file as the container sees it: name to address."""
        pid = self.agent.state(name)["pid"]
        lines = Path(f"/proc/{pid}/root", "etc/hosts").read_text().splitlines()
        return {word: line.split()[0] for line in lines for word in line.split()[1:]}

    def left(self) -> dict[str, list[str]]:
        """Everything that belongs to single containers: namespaces, records, addresses, rules, interfaces."""
        network = self.agent.run / "network"
        return {
            "namespaces": os.listdir(self.agent.run / "netns") if (self.agent.run / "netns").exists() else [],
            "mounts": [
                line
                for line in Path("/proc/mounts").read_text().splitlines()
                if f"{self.agent.run}/netns" in line
            ],
            "records": [path.name for path in (network / "sandboxes").glob("*")],
            "addresses": [path.name for path in (network / "addresses").rglob("*.*.*.*")],
            "rules": self.machine.rules(),
            "interfaces": [name for name in self.machine.interfaces() if name.startswith("veth")],
        }

    def assert_nothing_left(self) -> None:
        assert not {what: found for what, found in self.left().items() if found}


@pytest.fixture
def world(tmp_path: Path, containerd: ContainerdServer, machine: Machine) -> Iterator[World]:
    with AgentProcess(tmp_path, containerd, inside=machine.inside) as agent:
        world = World(agent, machine)
        yield world
    world.assert_nothing_left()


def port(host_port: int, container_port: int = 80, **more: Any) -> dict[str, Any]:
    return {"host_port": host_port, "container_port": container_port, **more}


def test_curl_reaches_a_published_port_by_loopback_and_by_every_address(world: World) -> None:
    world.machine.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
    world.machine.run("ip", "address", "add", "10.99.0.1/24", "dev", "out0")
    world.machine.run("ip", "link", "set", "out0", "up")
    address = world.start("web", SERVE, port_mappings=[port(30555)])
    for host in ("127.0.0.1", "10.99.0.1", "172.17.0.1"):
        done = world.machine.run(
            "curl", "-sS", "--retry", "5", "--retry-connrefused", f"http://{host}:30555/name"
        )
        assert done.stdout == "web-host\n"
    assert world.machine.run("curl", "-sS", f"http://{address}/name").stdout == "web-host\n"
