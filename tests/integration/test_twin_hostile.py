# SPDX-License-Identifier: Apache-2.0
"""Ten thousand hostile commands, made from valid ones by a grammar: answered or logged, and nothing of them stays."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from connector import EVENTS, THING, Connector
from containerd_server import ContainerdServer, wait_until
from images import IMAGE

if TYPE_CHECKING:
    from pathlib import Path

    from mosquitto_server import MosquittoServer

pytestmark = pytest.mark.integration


OPERATIONS = {
    "ContainerFactory": ["create", "createWithConfig"],
    "Metrics": ["request"],
    "SoftwareUpdatable": ["install", "remove"],
    "Container:x": ["start", "stop", "stopWithOptions", "rename", "update", "remove", "pause", "resume"],
}
KEYS = (
    "imageRef",
    "name",
    "config",
    "start",
    "frequency",
    "filter",
    "id",
    "originator",
    "correlationId",
    "softwareModules",
    "software",
    "forced",
    "artifacts",
    "download",
    "checksums",
    "timeout",
    "force",
    "signal",
    "restartPolicy",
    "resources",
    "memory",
    "type",
    "maxRetryCount",
    "mountPoints",
    "portMappings",
    "hostPort",
    "env",
    "log",
)


def anything(chance: random.Random, depth: int = 0) -> object:
    """A JSON value of the words that commands have."""
    kind = chance.randrange(9 if depth < 4 else 6)
    simple = [
        None,
        True,
        chance.choice([0, -1, 1e300, 2**63, 1.5]),
        chance.choice(["", "5s", "../x", "\ud800", "%s%n", "A" * 300]),
    ]
    if kind < 4:
        return simple[kind]
    if kind < 6:
        return chance.choice(["no.such/image:1", "HTTP", "MD5", "Container:x", "SIGKILL", "64M", "-1"])
    if kind == 6:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): anything(chance, depth + 1) for _ in range(chance.randrange(5))}


def hostile(chance: random.Random, container_id: str) -> tuple[str, bytes]:
    """Topic and payload: a valid command with some parts replaced."""
    feature = chance.choice(list(OPERATIONS))
    operation = chance.choice(OPERATIONS[feature])
    feature = feature.replace("x", container_id) if chance.random() < 0.3 else feature
    envelope: dict[str, object] = {
        "topic": f"{THING.replace(':', '/', 1)}/things/live/messages/{operation}",
        "headers": {"correlation-id": "c", "response-required": True, "content-type": "application/json"},
        "path": f"/features/{feature}/inbox/messages/{operation}",
        "value": anything(chance),
    }
    for name in list(envelope):
        if chance.random() < 0.1:
            envelope[name] = anything(chance)
    payload = json.dumps(envelope).encode()
    if chance.random() < 0.1:
        cut = chance.randrange(len(payload))
        payload = payload[:cut] + bytes([chance.randrange(256)]) + payload[cut + 1 :]
    request = chance.choice(["h", "", "x" * 200])
    return f"command//{THING}/req/{request}/{operation}", payload


def resident(pid: int) -> int:
    """KiB of memory that is the process's own."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def measure_once(cloud: Connector) -> None:
    """Metrics of a container that runs for so long: /proc/stat is opened for the first of them, and kept."""
    argument = {"imageRef": IMAGE, "config": {"networkMode": "HOST", "cmd": ["/bin/sleep", "1000"]}}
    status, container = cloud.ask("ContainerFactory", "createWithConfig", argument)
    assert status == 200, container
    assert cloud.ask(f"Container:{container}", "start") == (204, None)
    assert cloud.ask("Metrics", "request", {"frequency": "1s"}) == (204, None)
    cloud.until(lambda: any(True for _ in cloud.data()), "metrics come")
    assert cloud.ask("Metrics", "request", {"frequency": "0s"}) == (204, None)
    assert cloud.ask(f"Container:{container}", "remove", True) == (204, None)


def storm(cloud: Connector, chance: random.Random, container_id: str, count: int) -> None:
    """Send *count* hostile commands, in portions that the broker's queue holds, and wait until each portion is handled."""
    for number in range(count):
        cloud.raw(*hostile(chance, container_id))
        if number % 200 == 199:
            assert cloud.ask("Metrics", "request", {"frequency": "0s"}) == (204, None)


def test_ten_thousand_hostile_commands_leave_the_agent_as_it_was(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    seed = 20261125
    with AgentProcess(tmp_path, containerd, broker) as agent, Connector(broker.port) as cloud:
        assert agent.process
        pid = agent.process.pid
        cloud.wait_for_twin()
        measure_once(cloud)
        chance = random.Random(seed)
        one = cloud.create(IMAGE)
        storm(cloud, chance, "none", 1000)  # caches fill
        files, memory = open_files(pid), resident(pid)
        storm(cloud, chance, "none", 9000)
        wait_until(lambda: open_files(pid) <= files, 30, "files are closed again")
        assert resident(pid) - memory < 1024, f"seed {seed}"
        assert agent.process.poll() is None
        assert "Traceback" not in agent.text()
        assert "bug in" not in agent.text()
        assert cloud.ask(f"Container:{one}", "rename", "after-all") == (204, None)
        cloud.until(lambda: cloud.status(one)["name"] == "after-all", "the next valid command works")
        for container_id in agent.ids():
            assert container_id == one


def fresh(cloud: Connector, agent: AgentProcess) -> list[str]:
    """Three new containers, and none besides."""
    for container_id in agent.ids():
        cloud.ask(f"Container:{container_id}", "remove", True)  # after what the storm left to be done to it
    cloud.until(
        lambda: not any(name.startswith("Container:") for name in cloud.features),
        "the twin shows no container",
    )
    return [cloud.create(IMAGE) for _ in range(3)]


def test_ten_thousand_hostile_commands_against_containers_that_exist_leave_the_agent_as_it_was(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    """They may well start, stop and remove the containers: what counts is what the agent is like afterwards."""
    seed = 20261126
    with AgentProcess(tmp_path, containerd, broker) as agent, Connector(broker.port) as cloud:
        assert agent.process
        pid = agent.process.pid
        cloud.wait_for_twin()
        measure_once(cloud)
        chance = random.Random(seed)
        storm_at_containers(cloud, agent, chance, 1000)  # caches fill
        fresh(cloud, agent)
        files, memory = open_files(pid), resident(pid)
        reached = storm_at_containers(cloud, agent, chance, 10_000)
        kept = fresh(cloud, agent)
        one = kept[0]

        def closed() -> bool:
            for container_id in set(agent.ids()) - set(kept):  # of a late command of the storm
                cloud.ask(f"Container:{container_id}", "remove", True)
            return open_files(pid) <= files

        wait_until(closed, 30, "files are closed again")
        # It levels off at 0.8 MiB, after 30 000 commands too; what keeps 200 bytes of each comes to more than this.
        assert resident(pid) - memory < 2048, f"seed {seed}"
        assert {"RUNNING", "DEAD"} <= reached, f"seed {seed}: no container was touched"
        assert agent.process.poll() is None
        assert "Traceback" not in agent.text()
        assert "bug in" not in agent.text()
        assert cloud.ask(f"Container:{one}", "start") == (204, None)
        cloud.until(lambda: cloud.status(one)["state"]["status"] == "RUNNING", "the next valid command works")


def storm_at_containers(cloud: Connector, agent: AgentProcess, chance: random.Random, count: int) -> set[str]:
    """The states that the containers were seen in meanwhile."""
    begin = len(cloud.seen)
    for _ in range(count // 200):
        ids = agent.ids()
        ids += [cloud.create(IMAGE) for _ in range(3 - len(ids))]
        storm(cloud, chance, chance.choice(ids), 200)
    payloads = [message.payload for message in cloud.seen[begin:] if message.topic == EVENTS]
    return {
        payload["value"]["status"]
        for payload in payloads
        if payload["path"].startswith("/features/Container:") and payload["path"].endswith("/status/state")
    }
