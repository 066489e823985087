# SPDX-License-Identifier: Apache-2.0
"""The cloud creates a container whose image has to be fetched: it is answered when the container runs, and nothing else waits."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import private_containerd, wait_until
from hostile_registry import HostileRegistry
from images import Image, base_layer, layer
from mosquitto_server import MosquittoServer
from test_agent_cloud import DEVICE, THING, Cloud

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

DEVICE_ID = "dummy-namespace:dummy-gateway:dummy-device-id"


def ask(cloud: Cloud, number: int, path: str, value: object) -> None:
    topic = f"command//{DEVICE_ID}:edge:containers/req/{number}/request"
    envelope = {
        "topic": f"{THING.replace(':', '/', 1)}/things/live/messages/request",
        "headers": {
            "response-required": True,
            "content-type": "application/json",
            "correlation-id": str(number),
        },
        "path": path,
        "value": value,
    }
    cloud.publish(topic, json.dumps(envelope))


def answers(cloud: Cloud, number: int) -> list[dict[str, object]]:
    return [json.loads(text) for topic, text in cloud.lines() if f"/res/{number}/" in topic]


def test_a_container_of_the_cloud_has_its_image_fetched_and_other_operations_go_on(tmp_path: Path) -> None:
    create = "/features/ContainerFactory/inbox/messages/create"
    with (
        private_containerd() as containerd,
        HostileRegistry() as registry,
        MosquittoServer(tmp_path) as broker,
        AgentProcess(tmp_path, containerd, broker) as agent,
    ):
        host = {"config": {"networkMode": "host"}}
        quick = registry.put(Image(layers=[base_layer(), layer({"quick": b"x"})]), "cloud/quick", "1")
        slow = registry.put(Image(layers=[base_layer(), layer({"slow": b"x"})]), "cloud/slow", "1")
        go = threading.Event()
        held = max(registry.blobs, key=lambda digest: b"slow" in registry.blobs[digest][:100])
        registry.answer = lambda request: request.path.endswith(held) and not go.wait(600)
        cloud = Cloud(broker, tmp_path / "cloud")
        try:

            def shown() -> bool:
                """The agent may not listen yet, so it is said until it is heard; the same again changes nothing."""
                cloud.publish("edge/thing/response", DEVICE)
                return any("ContainerFactory" in text for _, text in cloud.lines())

            wait_until(shown, 30, "the twin shows")
            ask(cloud, 1, f"{create}WithConfig", {"imageRef": slow, "start": False, **host})
            wait_until(
                lambda: any(seen.path.endswith(held) for seen in registry.requests), 30, "it is pulled"
            )
            ask(cloud, 2, f"{create}WithConfig", {"imageRef": quick, "start": False, **host})
            wait_until(lambda: bool(answers(cloud, 2)), 30, "the second one is answered")
            assert answers(cloud, 2)[0]["status"] == 200
            assert answers(cloud, 1) == []
            go.set()
            wait_until(lambda: bool(answers(cloud, 1)), 30, "the first one is answered")
            assert answers(cloud, 1)[0]["status"] == 200
            assert {agent.get(name)["image"]["name"] for name in agent.ids()} == {quick, slow}
            ask(cloud, 3, create, {"imageRef": f"{registry.host}/cloud/none:1", "start": True})
            wait_until(lambda: bool(answers(cloud, 3)), 30, "the refusal comes")
            assert answers(cloud, 3)[0]["status"] == 500
            assert "not found" in str(answers(cloud, 3)[0]["value"])
        finally:
            cloud.close()
