# SPDX-License-Identifier: Apache-2.0
"""The agent killed between any two steps of giving a container its network or taking it away: after a restart the same command reaches
its goal, and no namespace, address, interface or rule is left over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from bridge_world import SERVE, World, bridged, port
from containerd_server import ContainerdServer, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from network_world import Machine

pytestmark = pytest.mark.integration

PLUGINS = "/usr/lib/cni"
GIVING = [
    "network.recorded",
    "network.namespace-made",
    "network.added-bridge",
    "network.result-recorded",
    "network.added-portmap",
    "network.result-recorded:2",
    "network.added-firewall",
    "network.result-recorded:3",
    "network.connected",
    "storage.covered",
    "storage.covered:3",
    "network.files-written",
    "containers.start-fifos",
    "containerd.record-made",
    "containerd.task-made",
    "containers.start-launched",
]
TAKING = [
    "containers.end-recorded",
    "network.deleted-firewall",
    "network.deleted-portmap",
    "network.deleted-bridge",
    "network.namespace-removed",
    "network.forgotten",
]


@pytest.fixture
def world(tmp_path: Path, containerd: ContainerdServer, machine: Machine) -> Iterator[World]:
    """With a container "web" that publishes a port, and one that names it."""
    with bridged(tmp_path, containerd, machine) as world:
        world.create("web", SERVE, port_mappings=[port(30555)])
        world.start("consumer", extra_hosts=["web:container_web-host"])
        yield world


def restarted(world: World, point: str) -> None:
    """The same agent once more, which is going to die at *point*."""
    assert world.agent.end() == 0
    world.agent.start(PYCM_FAIL_POINT=point)


def dies(world: World, *command: str) -> None:
    world.agent.call(*command)
    assert world.agent.process
    assert world.agent.process.wait(120) == -signal.SIGKILL, "the fail point was not reached"
    world.agent.start()


def assert_reached(world: World) -> None:
    """One container with one network, that answers under its port, and whose name its consumer knows."""
    world.agent.wait_for("web", running=True)
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "web-host\n"
    wait_until(lambda: world.hosts("consumer").get("web") == world.address("web"), 10, "its name is known")
    assert counted(world) == of_containers(2)


def assert_gone(world: World) -> None:
    wait_until(lambda: "web" not in world.hosts("consumer"), 10, "its name is forgotten")
    wait_until(lambda: counted(world) == of_containers(1), 10, "nothing of it is left")
    assert not [rule for rule in world.machine.rules() if "30555" in rule]


def of_containers(number: int) -> dict[str, int]:
    one = {"namespaces": 1, "mounts": 1, "files": 3, "records": 1, "addresses": 1, "interfaces": 1}
    return {what: count * number for what, count in one.items()}


def counted(world: World) -> dict[str, Any]:
    return {what: len(found) for what, found in world.left().items() if what != "rules"}


@pytest.mark.parametrize("point", GIVING)
def test_killed_while_a_network_is_given(world: World, point: str) -> None:
    restarted(world, point)
    dies(world, "start", "web")
    world.agent.call("start", "web")  # refused where the container is found to run
    assert_reached(world)
    world.agent.cm("stop", "-t", "1s", "-f", "web")
    assert_gone(world)


@pytest.mark.parametrize("point", ["network.connected", "containerd.task-made", "containers.start-launched"])
def test_killed_while_a_container_is_restarted(world: World, point: str) -> None:
    """The record says nothing of the new run before it has begun."""
    world.agent.cm("update", "--rp", "always", "web")
    world.agent.cm("start", "web")
    restarted(world, point)
    os.kill(world.agent.state("web")["pid"], signal.SIGKILL)
    assert world.agent.process
    assert world.agent.process.wait(120) == -signal.SIGKILL, "the fail point was not reached"
    world.agent.start()
    assert_reached(world)
    assert f"inet {world.address('web')}/" in world.inside("web", "ip", "-4", "address").stdout
    world.agent.cm("update", "--rp", "no", "web")
    world.agent.cm("stop", "-t", "1s", "-f", "web")
    assert_gone(world)


@pytest.mark.parametrize(
    "point", ["network.namespace-made", "network.added-firewall", "containerd.task-made"]
)
def test_killed_while_a_network_is_given_and_then_removed(world: World, point: str) -> None:
    restarted(world, point)
    dies(world, "start", "web")
    world.agent.cm("remove", "-f", "-t", "1s", "web")
    assert_gone(world)


@pytest.mark.parametrize("point", TAKING)
def test_killed_while_a_network_is_taken(world: World, point: str) -> None:
    world.agent.cm("start", "web")
    restarted(world, point)
    dies(world, "stop", "-f", "-t", "1s", "web")
    world.agent.call("stop", "-f", "-t", "1s", "web")  # refused where it is found to have ended
    wait_until(lambda: counted(world)["records"] == 1, 20, "the rest of its network is removed")
    assert_gone(world)
    world.agent.cm("start", "web")
    assert_reached(world)


@pytest.mark.parametrize("point", ["containers.remove-runtime", "network.deleted-portmap"])
def test_killed_while_a_container_with_a_network_is_removed(world: World, point: str) -> None:
    world.agent.cm("start", "web")
    restarted(world, point)
    dies(world, "remove", "-f", "-t", "1s", "web")
    world.agent.call("remove", "-f", "-t", "1s", "web")  # refused where it is found to be finished
    wait_until(lambda: counted(world)["records"] == 1, 20, "the removal is finished")
    assert_gone(world)


def test_of_a_damaged_record_as_much_is_removed_as_can_be_guessed(world: World) -> None:
    world.agent.cm("start", "web")
    pid = world.agent.state("web")["pid"]
    world.agent.kill()
    (world.agent.run / "network" / "sandboxes" / "web.json").write_text('{"id": ')
    os.kill(pid, signal.SIGKILL)
    world.agent.start()
    world.agent.wait_for("web", status=5)
    wait_until(lambda: counted(world)["records"] == 1, 20, "the rest of its network is removed")
    assert_gone(world)
    world.agent.cm("start", "web")
    assert_reached(world)


def test_what_belongs_to_no_container_is_removed(world: World, containerd: ContainerdServer) -> None:
    """As of a container whose directory somebody has deleted by hand."""
    world.agent.cm("start", "web")
    pid = world.agent.state("consumer")["pid"]
    world.agent.kill()
    shutil.rmtree(world.agent.home / "containers" / "consumer", ignore_errors=True)  # all but what is mounted
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "STOPPED" in containerd.ctr("tasks", "ls"), 20, "it has ended")
    containerd.ctr("tasks", "delete", "consumer")
    containerd.ctr("containers", "delete", "consumer")
    (world.agent.run / "netns" / "stranger").touch()
    world.agent.start()
    wait_until(lambda: len(world.left()["namespaces"]) == 1, 20, "what is left of it is removed")
    wait_until(lambda: counted(world) == of_containers(1), 10, "its files are unmounted too")


@pytest.mark.parametrize("phase", ["ADD", "DEL"])
def test_a_plugin_that_outlives_its_agent_is_waited_for(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine, phase: str
) -> None:
    """It would give the container an address, and an interface, after the next agent has removed all that there was."""
    directory = tmp_path / "cni"
    directory.mkdir()
    for name in ("host-local", "portmap", "firewall"):
        (directory / name).symlink_to(f"{PLUGINS}/{name}")
    slow = f"[ $CNI_COMMAND = {phase} ] && mkdir {tmp_path}/begun && until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    (directory / "bridge").write_text(f"#!/bin/sh\n{slow} 2>/dev/null\nexec {PLUGINS}/bridge\n")
    (directory / "bridge").chmod(0o755)
    options = f'cni_bin_dirs = ["{directory}"]'
    with bridged(tmp_path, containerd, machine, options) as world:
        agent = world.agent
        world.create("web", SERVE, port_mappings=[port(30555)])
        command = world.agent.command("start", "web")
        if phase == "DEL":
            agent.cm("start", "web")
            command = world.agent.command("stop", "-f", "-t", "1s", "web")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as client:
            wait_until((tmp_path / "begun").exists, 20, "the plugin runs")
            agent.kill()
            client.wait(120)
        agent.start()
        wait_until(lambda: "are still running (waiting)" in agent.text(), 20, "the next agent sees it")
        (tmp_path / "go").touch()
        agent.call("start", "web")
        agent.wait_for("web", running=True)
        assert counted(world)["addresses"] == counted(world)["interfaces"] == 1
        agent.cm("remove", "-f", "-t", "1s", "web")
        world.assert_nothing_left()
