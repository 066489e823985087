# SPDX-License-Identifier: Apache-2.0
"""The cloud connector and the cloud behind it, played with paho and nothing else: says who the device is, sends commands, holds the twin.

with Connector(broker.port) as cloud:
    cloud.wait_for_twin()
    status, value = cloud.ask("ContainerFactory", "create", {"imageRef": IMAGE})
    cloud.features["Container:<id>"]
"""

from __future__ import annotations

import contextlib
import json
import queue
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paho.mqtt import client as paho

from support.ditto_twin import DittoTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEVICE = {"deviceId": "acme.test:gw-01", "tenantId": "tenant-a", "policyId": "acme.test:gw-01"}
THING = "acme.test:gw-01:edge:containers"
EVENTS = f"e/tenant-a/{THING}"
PATIENCE = 120.0


@dataclass(frozen=True)
class Message:
    """`at`: monotonic seconds when it arrived here."""

    topic: str
    payload: Any
    at: float
    qos: int = 1
    retain: bool = False


def paho_client(name: str) -> Any:
    if hasattr(paho, "CallbackAPIVersion"):
        return paho.Client(paho.CallbackAPIVersion.VERSION2, name)
    return paho.Client(name)


class Connector:
    """`answers`: whether it tells the device when it is asked. `follows`: whether it was there from the beginning, and holds the twin.

    `seen`: every message but commands and its own.
    """

    def __init__(self, port: int, *, answers: bool = True, follows: bool = True) -> None:
        self.twin = DittoTwin()
        self.seen: list[Message] = []
        self.answers = answers
        self._follows = follows
        self._port = port
        self._arrived: queue.Queue[Message] = queue.Queue()
        self._client = paho_client("connector")
        self._client.on_connect = self._connected
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._requests = 0

    def __enter__(self) -> Connector:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Any, *_: Any) -> None:
        """As a connector does that has just started: it tells the device without being asked."""
        topics = ("edge/thing/request", "e/#", "command//+/res/#", "t/#")
        client.subscribe([(topic, 1) for topic in topics])
        if self.answers:
            self.tell_device()

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        at = time.monotonic()
        if message.topic == "edge/thing/request":
            if self.answers:
                self.tell_device()
            return
        payload = json.loads(message.payload)
        self._arrived.put(Message(message.topic, payload, at, message.qos, message.retain))

    def tell_device(self, device: dict[str, str] = DEVICE) -> None:
        self._client.publish("edge/thing/response", json.dumps(device), qos=1)

    # ── what the cloud sees ──

    def take(self, timeout: float) -> Message:
        """The next message, applied to the twin; queue.Empty after *timeout*."""
        message = self._arrived.get(timeout=timeout)
        if self._follows:
            self.twin.apply(message.topic, message.payload)
        self.seen.append(message)
        return message

    def wait(self, wanted: Callable[[Message], bool], what: str, timeout: float = PATIENCE) -> Message:
        """The first message from now on that is *wanted*."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                message = self.take(left)
                if wanted(message):
                    return message
        raise AssertionError(f"{what}: not within {timeout:g} s; last seen: {self.seen[-5:]}")

    def until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Until *condition* holds, looked at after each message and now and then."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, (
                f"{what}: not within {timeout:g} s; last seen: {self.seen[-5:]}"
            )
            with contextlib.suppress(queue.Empty):
                self.take(0.1)

    @property
    def features(self) -> dict[str, Any]:
        return self.twin.things.get(THING, {})

    def status(self, container_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.features[f"Container:{container_id}"]["properties"]["status"]
        return found

    def wait_for_twin(self) -> None:
        self.until(lambda: "Metrics" in self.features, "the features are published")

    def catch_up(self) -> None:
        """Take all that was published until now and forget the features: what comes next is of another agent."""
        marker = f"t/catch-up/{time.monotonic_ns()}"
        self.raw(marker, "{}")
        self.wait(lambda message: message.topic == marker, "what was published before")
        self.features.clear()

    def data(self) -> Iterator[dict[str, Any]]:
        for message in self.seen:
            if message.payload.get("path", "").endswith("/outbox/messages/data"):
                yield message.payload["value"]

    # ── commands ──

    def send(self, feature: str, operation: str, *argument: Any) -> str:
        """Returns the request id."""
        self._requests += 1
        request = f"r{self._requests}"
        headers: dict[str, Any] = {"correlation-id": f"c{self._requests}", "response-required": True}
        envelope = {
            "topic": f"{THING.replace(':', '/', 1)}/things/live/messages/{operation}",
            "headers": headers,
            "path": f"/features/{feature}/inbox/messages/{operation}",
        }
        if argument:
            headers["content-type"] = "application/json"
            envelope["value"] = argument[0]
        self.raw(f"command//{THING}/req/{request}/{operation}", json.dumps(envelope))
        return request

    def raw(self, topic: str, payload: str | bytes) -> None:
        self._client.publish(topic, payload, qos=1)

    def answer(self, request: str) -> tuple[int, Any]:
        """Status and value of the answer to a request."""
        prefix = f"command//{THING}/res/{request}/"

        def is_it(message: Message) -> bool:
            return message.topic.startswith(prefix)

        found = next(filter(is_it, self.seen), None) or self.wait(is_it, f"the answer to {request}")
        assert (found.qos, found.retain) == (1, False)
        assert found.payload["headers"]["correlation-id"] == "c" + request[1:]
        assert int(found.topic.removeprefix(prefix)) == found.payload["status"]
        return found.payload["status"], found.payload.get("value")

    def ask(self, feature: str, operation: str, *argument: Any) -> tuple[int, Any]:
        return self.answer(self.send(feature, operation, *argument))

    def create(self, image: str) -> str:
        """The id of a new container in the host's network."""
        argument = {"imageRef": image, "config": {"networkMode": "HOST"}}
        status, container_id = self.ask("ContainerFactory", "createWithConfig", argument)
        assert status == 200, container_id
        return str(container_id)
