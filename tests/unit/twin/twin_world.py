# SPDX-License-Identifier: Apache-2.0
"""What the twin's unit tests share: the vectors' player as a world to act in, and short ways to say what was sent."""

import asyncio
import dataclasses
import json
import pathlib
import sys
from typing import Any

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


# ── jobs that wait until the test says so ──


@dataclasses.dataclass(frozen=True)
class Create:
    container: Any


@dataclasses.dataclass(frozen=True)
class Start:
    container_id: str


@dataclasses.dataclass(frozen=True)
class Stop:
    container_id: str
    options: Any = None


@dataclasses.dataclass(frozen=True)
class Pause:
    container_id: str


@dataclasses.dataclass(frozen=True)
class Resume:
    container_id: str


@dataclasses.dataclass(frozen=True)
class Rename:
    container_id: str
    name: str


@dataclasses.dataclass(frozen=True)
class Update:
    container_id: str
    options: Any


@dataclasses.dataclass(frozen=True)
class Remove:
    container_id: str
    force: bool = False


@dataclasses.dataclass(frozen=True)
class Download:
    url: str
    limit: int


class Call:
    """What a job waits for; `work` is the coroutine that goes on with its outcome."""

    def __init__(self, operation):
        self.operation = operation
        self.work = None

    def __await__(self):
        return (yield self)


class HeldManager:
    """The container manager and downloads: each call waits until `HeldWorld.end`."""

    async def create(self, container):
        return await Call(Create(container))

    async def start(self, container_id):
        return await Call(Start(container_id))

    async def stop(self, container_id, options=None):
        return await Call(Stop(container_id, options))

    async def pause(self, container_id):
        return await Call(Pause(container_id))

    async def unpause(self, container_id):
        return await Call(Resume(container_id))

    async def rename(self, container_id, name):
        return await Call(Rename(container_id, name))

    async def update(self, container_id, options):
        return await Call(Update(container_id, options))

    async def remove(self, container_id, *, force=False):
        return await Call(Remove(container_id, force))

    async def fetch(self, url, limit):
        return await Call(Download(url, limit))


class HeldWorld(World):
    """Operations wait until the test says what came of them: a value, or an error that is raised."""

    def __init__(self, *arguments, **given):
        self.runs = []
        super().__init__(*arguments, **given)

    def manager(self):
        return HeldManager()

    downloads = manager

    def drive(self, work, outcome=None):
        try:
            call = work.throw(outcome) if isinstance(outcome, Exception) else work.send(outcome)
        except StopIteration:
            return
        call.work = work
        self.runs.append(call)

    def end(self, run, outcome=None):
        self.runs.remove(run)
        self.drive(run.work, outcome)

    def operations(self):
        return [run.operation for run in self.runs]


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
