# SPDX-License-Identifier: Apache-2.0
"""A scripted cloud drives a container through its whole life, and the twin is held against containerd, the kernel and the API each time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from connector import EVENTS, Connector
from hostile_registry import HostileRegistry
from images import IMAGE, Image, base_layer, layer
from registry_server import RegistryServer

if TYPE_CHECKING:
    from containerd_server import ContainerdServer
    from mosquitto_server import MosquittoServer

pytestmark = pytest.mark.integration

WORK = ["/bin/sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done"]
MIB = 1 << 20
#: Of Kanto's stored form, by number.
STATUSES = ["CREATING", "CREATED", "RUNNING", "STOPPED", "PAUSED", "EXITED", "DEAD", "UNKNOWN"]


class Truth:
    """What containerd, the kernel and the agent's own API say of a container."""

    def __init__(self, agent: AgentProcess, containerd: ContainerdServer) -> None:
        self._agent = agent
        self._containerd = containerd

    def task(self, container_id: str) -> tuple[int, str] | None:
        """(pid, status) as ctr tells it."""
        for line in self._containerd.ctr("tasks", "ls").splitlines()[1:]:
            name, pid, status = line.split()
            if name == container_id:
                return int(pid), status
        return None

    def memory_limit(self, pid: int) -> int:
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for file in (
                f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes",
                f"/sys/fs/cgroup{path}/memory.max",
            ):
                if ("memory" in controllers or not controllers) and os.path.exists(file):
                    return int(Path(file).read_text())
        raise AssertionError(f"process {pid} has no memory cgroup")

    def check(self, cloud: Connector, container_id: str) -> None:
        """The twin shows what is so."""
        known = self._agent.get(container_id)
        name = known["host_name"]  # told after the state
        cloud.until(lambda: cloud.status(container_id)["config"]["hostName"] == name, "the host name is told")
        shown = cloud.status(container_id)
        state, task = shown["state"], self.task(container_id)
        assert shown["name"] == known["container_name"]
        assert shown["imageRef"] == known["image"]["name"]
        assert shown["createdAt"] == known["created"]
        assert state["status"] == STATUSES[known["state"]["status"]]
        for here, there in (
            ("startedAt", "started_at"),
            ("finishedAt", "finished_at"),
            ("exitCode", "exit_code"),
        ):
            assert state.get(here) == (known["state"].get(there) or None)
        if state["status"] in ("RUNNING", "PAUSED"):
            assert task == (state["pid"], state["status"])
            assert os.path.exists(f"/proc/{state['pid']}")
            memory = shown["config"]["resources"]["memory"]
            assert memory.endswith("M")
            assert self.memory_limit(state["pid"]) == int(memory[:-1]) * MIB
        else:
            assert state["pid"] == -1
            assert task is None or task[1] == "STOPPED"


def state_is(cloud: Connector, container_id: str, status: str) -> None:
    cloud.until(
        lambda: cloud.status(container_id)["state"]["status"] == status, f"{container_id} is {status}"
    )


def test_a_scripted_cloud_and_the_life_of_a_container(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    with (
        RegistryServer(tmp_path) as registry,
        AgentProcess(tmp_path, containerd, broker) as agent,
        Connector(broker.port) as cloud,
    ):
        image = registry.push(Image(layers=[base_layer(), layer({"cloudy": b"1"})]), "cloudy/app", "1.0")
        truth = Truth(agent, containerd)
        cloud.wait_for_twin()
        config = {
            "networkMode": "HOST",
            "cmd": WORK,
            "restartPolicy": {"type": "NO"},
            "resources": {"memory": "64M"},
        }
        argument = {"imageRef": image, "name": "cloudy", "config": config, "start": True}
        assert image not in containerd.ctr("images", "ls", "-q").split()
        status, one = cloud.ask("ContainerFactory", "createWithConfig", argument)
        assert (status, agent.ids()) == (200, [one])
        feature = f"Container:{one}"
        state_is(cloud, one, "RUNNING")
        machine = Path("/proc/sys/kernel/hostname").read_text().strip()
        truth.check(cloud, one)
        assert cloud.status(one)["config"]["hostName"] == machine
        _steps(cloud, truth, feature, one)
        _figures(cloud, one)
        _end(cloud, truth, feature, one)
        installed = cloud.features["SoftwareUpdatable"]["properties"]["status"]["installedDependencies"]
        assert installed is None
        assert feature not in cloud.features
        assert agent.ids() == []
        assert truth.task(one) is None
        told = [m for m in cloud.seen if m.topic == EVENTS]
        assert all((m.qos, m.retain) == (1, False) for m in told)


def _steps(cloud: Connector, truth: Truth, feature: str, one: str) -> None:
    for operation, status in (("pause", "PAUSED"), ("resume", "RUNNING")):
        assert cloud.ask(feature, operation) == (204, None)
        state_is(cloud, one, status)
        truth.check(cloud, one)
    assert cloud.ask(feature, "rename", "sunny") == (204, None)
    cloud.until(lambda: cloud.status(one)["name"] == "sunny", "the new name")
    truth.check(cloud, one)
    assert cloud.ask(feature, "update", {"resources": {"memory": "96M"}}) == (204, None)
    cloud.until(lambda: cloud.status(one)["config"]["resources"] == {"memory": "96M"}, "the new limit")
    truth.check(cloud, one)
    status, value = cloud.ask(feature, "update", {"resources": {"memory": "2M"}})
    assert (status, value["message"]) == (500, "minimum memory allowed is 3M")
    truth.check(cloud, one)


def _figures(cloud: Connector, one: str) -> None:
    filters = [
        {"originator": f"Container:{one}"},
        {"originator": "SYSTEM", "id": ["memory.total", "memory.*"]},
    ]
    assert cloud.ask("Metrics", "request", {"frequency": "1s", "filter": filters}) == (204, None)
    cloud.until(lambda: len(list(cloud.data())) >= 2, "figures arrive")
    container, system = list(cloud.data())[-1]["snapshot"]
    figures = {m["id"]: m["value"] for m in container["measurements"]}
    assert container["originator"] == f"Container:{one}"
    assert figures["memory.total"] == 96 * MIB
    assert figures["pids"] >= 1
    assert system["measurements"][0]["id"] == "memory.total"
    with open("/proc/meminfo") as file:
        assert system["measurements"][0]["value"] == int(file.readline().split()[1]) * 1024
    assert cloud.ask("Metrics", "request", {"frequency": "0s"}) == (204, None)


def _end(cloud: Connector, truth: Truth, feature: str, one: str) -> None:
    assert cloud.ask(feature, "stopWithOptions", {"timeout": 5, "force": True}) == (204, None)
    state_is(cloud, one, "STOPPED")
    assert cloud.status(one)["state"]["exitCode"] == 143
    truth.check(cloud, one)
    assert cloud.ask(feature, "start") == (204, None)
    state_is(cloud, one, "RUNNING")
    truth.check(cloud, one)
    os.kill(cloud.status(one)["state"]["pid"], 9)
    state_is(cloud, one, "EXITED")
    assert cloud.status(one)["state"]["exitCode"] == 137
    truth.check(cloud, one)
    assert cloud.ask(feature, "start") == (204, None)
    status, value = cloud.ask(feature, "remove")
    assert (status, value["error"]) == (500, "messages:execution.failed")
    assert cloud.ask(feature, "remove", True) == (204, None)
    cloud.until(lambda: feature not in cloud.features, "the feature is gone")


def signs_of_life(broker: MosquittoServer) -> int:
    return sum("Received PINGREQ" in line for line in broker.log_lines())


def test_a_pull_that_stands_still_delays_no_operation_and_no_sign_of_life(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd, broker)
    agent.config.write_text(agent.config.read_text() + 'keep_alive = "1s"\n')
    with HostileRegistry() as silent, agent, Connector(broker.port) as cloud:
        slow = silent.put(Image(layers=[base_layer(), layer({"slow": b"x"})]), "slow/app", "1")
        silent.answer = lambda request: "/blobs/" in request.path and request.stall()
        cloud.wait_for_twin()
        config = {"networkMode": "HOST", "cmd": WORK}
        _, one = cloud.ask("ContainerFactory", "createWithConfig", {"imageRef": IMAGE, "config": config})
        waiting = cloud.send("ContainerFactory", "createWithConfig", {"imageRef": slow, "config": config})
        cloud.until(lambda: bool(silent.blob_requests()), "the pull waits for a blob")
        for operation, status in (("start", "RUNNING"), ("pause", "PAUSED"), ("resume", "RUNNING")):
            assert cloud.ask(f"Container:{one}", operation) == (204, None)
            state_is(cloud, one, status)
        assert cloud.ask(f"Container:{one}", "stopWithOptions", {"force": True}) == (204, None)
        seen = signs_of_life(broker)
        cloud.until(lambda: signs_of_life(broker) >= seen + 2, "the agent keeps its connection alive")
        assert not [m for m in cloud.seen if f"/res/{waiting}/" in m.topic]


def test_a_broker_that_flaps_and_goes_away_leaves_a_true_twin_and_few_messages(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    flaps = 60  # one each second
    with AgentProcess(tmp_path, containerd, broker) as agent, Connector(broker.port) as cloud:
        cloud.wait_for_twin()
        ids = [cloud.create(IMAGE) for _ in range(3)]
        assert cloud.ask("Metrics", "request", {"frequency": "1s"}) == (204, None)
        before = cloud.twin.count
        for number in range(flaps):
            broker.stop(kill=True)
            agent.cm("rename", ids[number % 3], f"name-{number}")
            broker.start()
            time.sleep(1)  # that is what flapping each second means; nothing depends on what happens in it
        broker.stop()
        agent.cm("remove", ids[0])
        new = agent.run_container(IMAGE, *WORK, name="meanwhile", flags=("-m", "64M"))
        names = {one: agent.get(one)["container_name"] for one in agent.ids()}
        broker.start()
        cloud.until(
            lambda: (
                {
                    name.removeprefix("Container:"): feature["properties"]["status"]["name"]
                    for name, feature in cloud.features.items()
                    if name.startswith("Container:")
                }
                == names
            ),
            "the twin equals the truth",
        )
        state_is(cloud, new, "RUNNING")
        Truth(agent, containerd).check(cloud, new)
        # each connection may have told everything once, and each change by itself
        assert cloud.twin.count - before <= (flaps + 1) * (len(ids) + 1 + 3) + flaps + 10
        seen = len(list(cloud.data()))
        cloud.until(lambda: len(list(cloud.data())) > seen, "the request for figures goes on")


def test_the_agent_takes_the_place_of_system_metrics_and_masks_the_environment(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd, broker)
    settings = "[things]\nmask_env = true\nsystem_metrics = true\n"
    agent.config.write_text(agent.config.read_text().replace("[things]\n", settings))
    with agent, Connector(broker.port, follows=False) as cloud:
        shown = cloud.wait(lambda message: message.topic == "e", "the feature of the device")
        assert shown.payload["path"] == "/features/Metrics"
        assert shown.payload["topic"] == "acme.test/gw-01/things/twin/commands/modify"
        request = {
            "topic": "acme.test/gw-01/things/live/messages/request",
            "headers": {
                "correlation-id": "own",
                "response-required": True,
                "content-type": "application/json",
            },
            "path": "/features/Metrics/inbox/messages/request",
            "value": {"frequency": "1s", "filter": [{"id": ["cpu.load*", "memory.total"]}]},
        }
        cloud.raw("command///req/r1/request", json.dumps(request))
        cloud.wait(lambda message: message.topic == "command///res/r1/204", "the answer")
        data = cloud.wait(lambda message: message.topic == "e", "the figures").payload
        assert data["headers"]["correlation-id"] == "own"
        [system] = data["value"]["snapshot"]
        assert system["originator"] == "SYSTEM"
        ids = [m["id"] for m in system["measurements"]]
        assert ids == ["cpu.load1", "cpu.load5", "cpu.load15", "memory.total"]
        config = {"networkMode": "HOST", "env": ["TOKEN=geheim"]}
        cloud.ask("ContainerFactory", "createWithConfig", {"imageRef": IMAGE, "config": config})
        cloud.until(lambda: any('"TOKEN=***"' in json.dumps(m.payload) for m in cloud.seen), "the container")
        assert not any("geheim" in json.dumps(m.payload) for m in cloud.seen)
