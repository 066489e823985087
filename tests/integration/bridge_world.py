# SPDX-License-Identifier: Apache-2.0
"""Containers on the bridge of an agent in a network of its own, and what must not be left of them.

with private_network() as machine, AgentProcess(directory, containerd, inside=machine.inside) as agent:
    world = World(agent, machine)
    address = world.start("web", SERVE, port_mappings=[port(30555)])
world.assert_nothing_left()
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_process import AgentProcess
from images import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_server import ContainerdServer
    from network_world import Machine

SERVE = "echo $HOSTNAME >/tmp/name; exec busybox httpd -f -p 80 -h /tmp"
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def port(host_port: int, container_port: int = 80, **more: Any) -> dict[str, Any]:
    return {"host_port": host_port, "container_port": container_port, **more}


class World:
    """An agent in a network of its own."""

    def __init__(self, agent: AgentProcess, machine: Machine) -> None:
        self.agent, self.machine = agent, machine

    def try_create(
        self, name: str, script: str = FOREVER, *, policy: str = "no", host_name: str = "", **host: Any
    ) -> subprocess.CompletedProcess[str]:
        """A container with its name as its id, on the bridge; *host*: parts of host_config."""
        file = self.agent.directory / f"{name}.json"
        description = {
            "container_id": name,
            "container_name": name,
            "host_name": host_name,
            "image": {"name": IMAGE},
            "host_config": {"network_mode": "bridge", "restart_policy": {"type": policy}, **host},
            "config": {"cmd": ["/bin/sh", "-c", script]},
        }
        file.write_text(json.dumps(description))
        return self.agent.call("create", "--file", file)

    def create(self, name: str, script: str = FOREVER, **more: Any) -> None:
        done = self.try_create(name, script, **more)
        assert done.returncode == 0, done.stderr

    def start(self, name: str, script: str = FOREVER, **more: Any) -> str:
        """Create and start; the container's address."""
        self.create(name, script, **more)
        self.agent.cm("start", name)
        return self.address(name)

    def address(self, name: str) -> str:
        found: str = self.agent.get(name)["network_settings"]["networks"]["bridge"]["ip_address"]
        return found

    def inside(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine in the container's network."""
        pid = self.agent.state(name)["pid"]
        return self.machine.run("nsenter", f"--net=/proc/{pid}/ns/net", *command, check=check)

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
            "files": self.agent.mounted_files(),
            "records": [path.name for path in (network / "sandboxes").glob("*")],
            "addresses": [path.name for path in (network / "addresses").rglob("*.*.*.*")],
            "rules": self.machine.rules(),
            "interfaces": [name for name in self.machine.interfaces() if name.startswith("veth")],
        }

    def assert_nothing_left(self) -> None:
        assert not {what: found for what, found in self.left().items() if found}


@contextlib.contextmanager
def bridged(
    directory: Path, containerd: ContainerdServer, machine: Machine, network: str = ""
) -> Iterator[World]:
    """*network*: further lines of that section of the configuration. At the end nothing is left, else the test has failed."""
    agent = AgentProcess(directory, containerd, network=network, inside=machine.inside)
    try:
        with agent:
            world = World(agent, machine)
            yield world
        world.assert_nothing_left()
    finally:  # or the directory could not be removed
        for path in (agent.run / "netns").glob("*"):
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)
