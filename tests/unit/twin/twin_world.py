# SPDX-License-Identifier: Apache-2.0
"""What the twin's unit tests share: the vectors' player as a world to act in, and short ways to say what was sent."""

import asyncio
import json
import pathlib
import sys

VECTORS = pathlib.Path(__file__).parents[2] / "vectors"
sys.path.insert(0, str(VECTORS))

from vector_core import CorePlayer  # noqa: E402

DEVICE = {"deviceId": "acme.test:gw-01", "tenantId": "tenant-a", "policyId": "acme.test:pol-01"}
THING = "acme.test:gw-01:edge:containers"
NAME = "acme.test/gw-01:edge:containers"
EVENTS = f"e/tenant-a/{THING}"
COMMANDS = f"command//{THING}/req/#"
C1 = "11111111-2222-4333-8444-555555555501"
C2 = "11111111-2222-4333-8444-555555555502"


def container(identifier=C1, status="CREATED", **more):
    return {"id": identifier, "name": "app", "image": "registry.test/demo/app:1.0", "status": status, **more}


class World(CorePlayer):
    """The core, registered as the acme device unless told otherwise."""

    def __init__(self, containers=(), *, edge_response=DEVICE, **given):
        given["containers"] = list(containers)
        given.setdefault("stored_container_ids", [c["id"] for c in containers])
        if edge_response:
            given["edge_response"] = edge_response
        super().__init__(given)
        self.notes = []
        self.prepare()
        self.notes.clear()

    def carry_out(self, decisions):
        decisions = list(decisions)
        self.notes += [decision for decision in decisions if type(decision).__name__ == "Note"]
        super().carry_out(decisions)

    def took(self):
        """(kind, path or topic) of everything since the last call."""
        seen, self.seen[:] = list(self.seen), []
        out = []
        for item in seen:
            if item.kind != "publish" or not item.topic.startswith("e/"):
                out.append((item.kind, item.topic))
            else:
                payload = json.loads(item.payload)
                out.append((payload["topic"].rsplit("/", 1)[1], payload["path"]))
        return out

    def answers(self):
        """(status, payload) of the answers since the last call."""
        found = [item for item in self.seen if "/res/" in item.topic]
        self.seen.clear()
        return [(int(item.topic.rsplit("/", 1)[1]), json.loads(item.payload)) for item in found]

    def ask(self, path, value=None, /, *, request="r1", name="x", **changes):
        headers = {"correlation-id": "c1", "response-required": True}
        envelope = {"topic": f"{NAME}/things/live/messages/x", "headers": headers, "path": path}
        if value is not None:
            headers["content-type"] = "application/json"
            envelope["value"] = value
        headers.update(changes.pop("headers", {}))
        envelope.update(changes)
        self.send({"topic": f"command//{THING}/req/{request}/{name}", "payload": envelope})
        return self.answers()

    def ask_quietly(self, path, value):
        """Like ask, for those who look at everything in `seen`."""
        headers = {"correlation-id": "c1", "response-required": True, "content-type": "application/json"}
        envelope = {
            "topic": f"{NAME}/things/live/messages/x",
            "headers": headers,
            "path": path,
            "value": value,
        }
        self.send({"topic": f"command//{THING}/req/r1/x", "payload": envelope})

    def raw(self, payload, topic=f"command//{THING}/req/r1/x"):
        self.carry_out(self.core.message(topic, payload))
        return self.answers()


class FakeMqtt:
    """Takes what is sent; `failing` decides what is refused, `gate` holds publishes back."""

    def __init__(self):
        self.sent = []
        self.failing = lambda topic: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = self.stopped = 0

    def add_listener(self, listener):
        self.listener = listener

    async def start(self):
        self.started += 1

    async def stop(self):
        self.stopped += 1

    async def _send(self, kind, topic, payload=b""):
        await self.gate.wait()
        if error := self.failing(topic):
            raise error
        self.sent.append((kind, topic, payload))

    async def subscribe(self, topic):
        await self._send("subscribe", topic)

    async def unsubscribe(self, topic):
        await self._send("unsubscribe", topic)

    async def publish(self, topic, payload, *, retain=False):
        assert not retain
        await self._send("publish", topic, payload)

    def paths(self):
        out = [
            json.loads(p).get("path") if k == "publish" and t == EVENTS else f"{k} {t}"
            for k, t, p in self.sent
        ]
        self.sent.clear()
        return out
