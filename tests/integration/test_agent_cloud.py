# SPDX-License-Identifier: Apache-2.0
"""The whole agent and the cloud side, which is mosquitto's own clients: list, details, metrics, and what is wrong."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from images import IMAGE
from mosquitto_server import MosquittoServer

pytestmark = pytest.mark.integration

THING = "dummy-namespace:dummy-gateway:dummy-device-id:edge:containers"
EVENTS = f"e/dummy-tenant-id/{THING}"
DEVICE = '{"deviceId":"dummy-namespace:dummy-gateway:dummy-device-id","tenantId":"dummy-tenant-id"}'
REQUEST = "3fdc463c-293c-4f39-ab19-24aef7944550"
BUSY = "trap 'exit 143' TERM; while :; do :; done"


class Cloud:
    """What a cloud connector sees: all messages of the broker, written to a file by mosquitto_sub."""

    def __init__(self, broker: MosquittoServer, file: Path) -> None:
        self._broker = broker
        self._file = file
        command = ["mosquitto_sub", "-h", "localhost", "-p", str(broker.port), "-F", "%t %p", "-t", "#"]
        with open(file, "wb") as output:
            self._process = subprocess.Popen(command, stdout=output)
        wait_until(self._subscribed, 10, "mosquitto_sub is subscribed")

    def _subscribed(self) -> bool:
        self.publish("test/ready", "x")
        return "test/ready x" in self._file.read_text(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def publish(self, topic: str, message: str | bytes) -> None:
        self._broker.publish(topic, message)

    def lines(self) -> list[tuple[str, str]]:
        """Topic and payload of each message; one that is being written just now does not count."""
        whole = self._file.read_text(errors="replace").split("\n")[:-1]
        return [(topic, payload) for topic, _, payload in (line.partition(" ") for line in whole)]

    def messages(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for found, payload in self.lines() if found == topic]

    def paths(self) -> list[str]:
        return [message["path"] for message in self.messages(EVENTS)]

    def data(self) -> list[dict[str, Any]]:
        return [m["value"] for m in self.messages(EVENTS) if m["path"].endswith("/outbox/messages/data")]

    def request(self, value: object, request: str = REQUEST) -> None:
        topic = f"{THING.replace(':', '/', 1)}/things/live/messages/request"
        headers = {
            "timeout": "10",
            "response-required": True,
            "content-type": "application/json",
            "correlation-id": request,
        }
        message = {
            "topic": topic,
            "headers": headers,
            "path": "/features/Metrics/inbox/messages/request",
            "value": value,
        }
        self.publish(f"command//{THING}/req/{request}/request", json.dumps(message))

    def answered(self, status: int, request: str = REQUEST) -> bool:
        return bool(self.messages(f"command//{THING}/res/{request}/{status}"))


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[MosquittoServer, Cloud]]:
    with MosquittoServer(tmp_path) as broker:
        side = Cloud(broker, tmp_path / "messages")
        try:
            yield broker, side
        finally:
            side.close()


def connect(side: Cloud) -> None:
    """The connector says who the device is when it is asked; the agent listens before it asks."""
    wait_until(lambda: bool(side.messages("edge/thing/request")), 30, "the agent asks for the device")
    side.publish("edge/thing/response", DEVICE)
    wait_until(lambda: "/features/Metrics" in side.paths(), 20, "the features are published")


def test_list_details_and_metrics_reach_the_cloud(
    cloud: tuple[MosquittoServer, Cloud], containerd: ContainerdServer, tmp_path: Path
) -> None:
    broker, side = cloud
    with AgentProcess(tmp_path, containerd, broker) as agent:
        container_id = agent.run_container(IMAGE, "/bin/sh", "-c", BUSY, name="busy", flags=("-m", "64M"))
        connect(side)
        paths = side.paths()
        assert paths.index("/features/SoftwareUpdatable") < paths.index(f"/features/Container:{container_id}")
        assert paths.index(f"/features/Container:{container_id}") < paths.index("/features/ContainerFactory")
        side.request({"frequency": "1s"})
        wait_until(lambda: len(side.data()) >= 4, 30, "figures arrive")
        assert side.answered(204)
        (snapshot,) = side.data()[3]["snapshot"]
        figures = {m["id"]: m["value"] for m in snapshot["measurements"]}
        assert snapshot["originator"] == f"Container:{container_id}"
        assert figures["cpu.utilization"] > 0
        assert figures["memory.total"] == 64 * 1024 * 1024
        assert 0 < figures["memory.used"] < figures["memory.total"]
        assert (figures["net.readBytes"], figures["net.writeBytes"]) == (0, 0)
        assert figures["pids"] >= 1
        side.request({"frequency": "0s"}, "stop-1")
        wait_until(lambda: side.answered(204, "stop-1"), 10, "the stop is answered")
        state_path = f"/features/Container:{container_id}/properties/status/state"
        agent.cm("stop", "-f", "-t", "1s", container_id)

        def told() -> list[str]:
            return [m["value"]["status"] for m in side.messages(EVENTS) if m["path"] == state_path]

        wait_until(lambda: told()[-1:] == ["STOPPED"], 10, "the stop is told")
        agent.cm("remove", container_id)

        def deleted() -> list[str]:
            return [m["path"] for m in side.messages(EVENTS) if m["topic"].endswith("/commands/delete")]

        wait_until(lambda: deleted() == [f"/features/Container:{container_id}"], 10, "the feature is deleted")


def test_a_broker_that_goes_and_comes_back_gets_everything_again(
    cloud: tuple[MosquittoServer, Cloud], containerd: ContainerdServer, tmp_path: Path
) -> None:
    broker, side = cloud
    with AgentProcess(tmp_path, containerd, broker) as agent:
        connect(side)
        broker.stop()
        side.close()
        container_id = agent.run_container(IMAGE, "/bin/sh", "-c", BUSY, name="meanwhile")
        broker.start()
        later = Cloud(broker, tmp_path / "later")
        try:
            wait_until(lambda: bool(later.messages("edge/thing/request")), 30, "the agent is back")
            later.publish("edge/thing/response", DEVICE)
            wait_until(
                lambda: f"/features/Container:{container_id}" in later.paths(), 20, "the container is told"
            )
        finally:
            later.close()


TO_NOBODY = (
    '{"topic":"dummy-namespace/dummy-gateway:dummy-device-id:edge:containers/t","headers":{"correlation-id":"c",'
    '"response-required":true},"path":"/features/Container:../../x/inbox/messages/start"}'
)
HOSTILE = [
    b"{not json",
    b"\xff\xfe\x00",
    b"[" * 10_000 + b"]" * 10_000,
    b'{"topic": 5, "path": [], "headers": "x"}',
    b'{"topic":"a/b/c","path":"/features/Nope/inbox/messages/x","headers":{"correlation-id":5}}',
    TO_NOBODY.encode(),
    b'{"value":NaN,"topic":"\\ud800"}',
    b" ",
]


def test_nothing_that_comes_in_over_mqtt_ends_the_agent(
    cloud: tuple[MosquittoServer, Cloud], containerd: ContainerdServer, tmp_path: Path
) -> None:
    broker, side = cloud
    with AgentProcess(tmp_path, containerd, broker) as agent:
        connect(side)
        assert agent.process
        before = len(agent.text().splitlines())
        for number, payload in enumerate(HOSTILE):
            side.publish(f"command//{THING}/req/h{number}/x", payload)
            side.publish("edge/thing/response", payload)
        side.request({"frequency": "0s"}, "after-all")
        wait_until(lambda: side.answered(204, "after-all"), 10, "the next command is answered")
        assert agent.process.poll() is None
        written = [line for line in agent.text().splitlines()[before:] if "level=debug" not in line]
        assert not [line for line in written if "Traceback" in line]
        assert len(HOSTILE) <= len(written) <= 2 * len(HOSTILE)  # at most one line a message
