# SPDX-License-Identifier: Apache-2.0
"""Plays a vector against a real mosquitto: the real connection, twin and container manager, a faked runtime below.

What the agent sent is read from two places: the broker's log says in which order it subscribed and published, with QoS and retain flag;
a client subscribed to everything brings the payloads. Nothing is waited for by the clock: the player knows when the agent has handled
a message, and when nothing is left to be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
import tempfile
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import vector_stimuli
from mosquitto_server import MosquittoServer
from vector_core import OBSERVE_MS, payload_of, verdict
from vector_matching import Seen, find_all, wrong_answer

from pycm.config.types import Connection, Things
from pycm.containers.catalog import Catalog
from pycm.containers.manager import Manager
from pycm.errors import OperationFailedError
from pycm.model.states import Status
from pycm.mqtt.client import MqttClient
from pycm.storage.store import ContainerStore
from pycm.twin.core import DEFAULT_FEATURES
from pycm.twin.service import TwinService
from pycm.twin.session import EDGE_RESPONSE, THING_SUFFIX
from pycm.twin.state import Memory
from support.fake_containers import FINISHED_AT, container_of, task_of
from support.fake_metrics import FakeMetrics
from support.fakes import FakeDownloads, FakeImages, FakeLogs, FakeNetwork, FakeRuntime
from support.managers import configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

#: Seconds for one vector beside the wait for what may be missing, whatever happens.
LIMIT = 120.0
#: Seconds after which what is missing is missing.
PATIENCE = 5.0
#: Seconds for one step of the preparation.
STEP = 60.0
_LOOK = 0.01
_MARKER = "vector-runner/marker"

_PUBLISHED = re.compile(
    r"\d+: Received PUBLISH from (\S+) \(d\d, q(\d), r(\d), m\d+, '(.*)', \.\.\. \(\d+ bytes\)\)"
)
_LISTED = re.compile(r"\d+: Received (SUBSCRIBE|UNSUBSCRIBE) from (\S+)")
_TOPIC = re.compile(r"\d+: \t(.*?)(?: \(QoS (\d)\))?$")


async def until(condition: Callable[[], bool], what: str, limit: float = STEP) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(f"not within {limit:g} s: {what}")
        await asyncio.sleep(_LOOK)


class Recorder:
    """A listener that keeps what comes, on the tester's connection or, to know what was handled, on the agent's."""

    def __init__(self) -> None:
        self.up = False
        self.messages: list[tuple[str, bytes]] = []

    def mqtt_connected(self) -> None:
        self.up = True

    def mqtt_disconnected(self) -> None:
        self.up = False

    def mqtt_message(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        self.messages.append((topic, payload))


def from_log(lines: Sequence[str], client_id: str) -> Iterator[tuple[str, str, int, bool]]:
    """(kind, topic, qos, retain) of what the client sent, in order."""
    listed = ""
    for line in lines:
        if found := _PUBLISHED.fullmatch(line):
            listed = ""
            if found[1] == client_id:
                yield "publish", found[4], int(found[2]), found[3] == "1"
        elif found := _LISTED.fullmatch(line):
            listed = found[1].lower() if found[2] == client_id else ""
        elif listed and (found := _TOPIC.fullmatch(line)):
            yield listed, found[1], int(found[2] or 1), False
        else:
            listed = ""


class LivePlayer:
    def __init__(
        self, broker: MosquittoServer, home: pathlib.Path, vector: Mapping[str, Any], patience: float
    ) -> None:
        self.patience = patience
        self.broker = broker
        self.home = home
        self.vector = vector
        self.given = vector["given"]
        self.recorder, self.handled = Recorder(), Recorder()
        self.tester = MqttClient(Connection(broker_url=broker.url))
        self.agent = MqttClient(Connection(broker_url=broker.url))
        tasks = [task for given in self.given.get("containers") or [] if (task := task_of(given))]
        self.runtime = FakeRuntime(any_image=True, tasks=tasks)
        self.runtime.now = lambda: FINISHED_AT
        errors = self.given.get("manager") or {}
        for key, method in (("create_error", "prepare"), ("start_error", "start")):
            if key in errors:
                self.runtime.fail[method] = OperationFailedError(errors[key])
        self.metrics = FakeMetrics(self.given.get("stats") or {})
        self.manager = Manager(
            catalog=Catalog(ContainerStore(str(home))),
            runtime=self.runtime,
            images=FakeImages(),
            logs=FakeLogs(),
            metrics=self.metrics,
            network=FakeNetwork(),
            config=configured(stop_timeout=1.0),
        )
        features = tuple(self.given.get("features", DEFAULT_FEATURES))
        self.twin = TwinService(
            self.agent,
            self.manager,
            self.metrics,
            Things(home_dir=str(home / "things"), features=features),
            downloads=FakeDownloads(self.given.get("http") or {}),
        )
        self._log_start = 0
        self._message_start = 0
        self._markers = 0

    # ── the world ──

    @contextlib.asynccontextmanager
    async def world(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.to_thread(self._store)
            await self.manager.load()
            follow = asyncio.create_task(self.manager.run())
            stack.push_async_callback(self._end, follow)
            self.tester.add_listener(self.recorder)
            await self.tester.start()
            stack.push_async_callback(self.tester.stop)
            await until(lambda: self.recorder.up, "the tester's connection")
            await self.tester.subscribe("#")
            stack.push_async_callback(self.twin.stop)
            yield

    async def _end(self, follow: asyncio.Task[None]) -> None:
        await self.manager.close()
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)

    def _store(self) -> None:
        store = ContainerStore(str(self.home))
        store.prepare()
        for given in self.given.get("containers") or []:
            store.save(container_of(given))
        memory = Memory(str(self.home / "things"))
        memory.prepare()
        stored = {one: f"Container:{one}" for one in self.given.get("stored_container_ids") or []}
        memory.write(self._device()["deviceId"] + THING_SUFFIX, stored)

    def _device(self) -> Mapping[str, Any]:
        send = self.vector.get("send") or {}
        told = send.get("payload") if send.get("topic") == EDGE_RESPONSE else None
        device = self.given.get("edge_response") or told or {}
        return device if device.get("deviceId") else {"deviceId": "acme.test:gw-01"}

    async def connect(self) -> None:
        self.agent.add_listener(self.handled)
        await self.twin.start()
        await until(lambda: self.handled.up, "the agent's connection")
        await self.settle()

    async def prepare(self) -> None:
        if self.given.get("connected", True):
            await self.connect()
        if "edge_response" in self.given:
            await self.send({"topic": EDGE_RESPONSE, "payload": self.given["edge_response"]})
            await until(lambda: any(self._thing() in s.topic for s in self.seen()), "the registration")
        for step in self.given.get("before") or []:
            await self.step(step)
        await self.settle()
        self._message_start = len(self.recorder.messages)
        self._log_start = len(self.broker.log_lines())

    def _thing(self) -> str:
        return str(self.given["edge_response"]["deviceId"]) + THING_SUFFIX + "/req/#"

    # ── what a vector can do ──

    async def step(self, step: Any) -> None:
        if isinstance(step, str):
            await self.stimulate(step)
        elif "stimulus" in step:
            await self.stimulate(step["stimulus"])
        else:
            await self.send(step)
            await self.settle()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Returns when the agent has handled it, if the agent gets it."""
        before = len(self.handled.messages)
        listens = any(
            _fits(one.topic, message["topic"])
            for one in self.seen(everything=True)
            if one.kind == "subscribe"
        )
        await self.tester.publish(message["topic"], payload_of(message))
        if listens:
            await until(lambda: len(self.handled.messages) > before, "the agent to get the message")

    async def stimulate(self, words: str) -> None:
        stimulus = vector_stimuli.parse(words, self.given)
        one, manager = stimulus.container, self.manager
        if stimulus.kind == "connect":
            await self.connect()
        elif stimulus.kind in ("lose", "reconnect"):
            # the agent's alone: the tester must see what the agent says first afterwards
            assert self.agent._link is not None
            self.agent._link.discard("the vector's connection is lost")
            await until(lambda: not self.handled.up, "the loss of the connection")
            await until(lambda: self.handled.up, "the agent's connection")
        elif stimulus.kind == "create":
            await manager.create(container_of(stimulus.given))
            if stimulus.given.get("status") == "RUNNING":
                await manager.start(stimulus.given["id"])
        elif stimulus.kind == "exit":
            self.runtime.end(one, stimulus.code, oom=stimulus.oom)
            await until(lambda: self._status(one) is not Status.RUNNING, "the exit to be seen")
        elif stimulus.kind == "rename":
            await manager.rename(one, stimulus.text)
        elif stimulus.kind == "remove":
            await manager.remove(one, force=True)
        else:
            calls = {
                "start": manager.start,
                "stop": manager.stop,
                "pause": manager.pause,
                "resume": manager.unpause,
            }
            await calls[stimulus.kind](one)

    def _status(self, container_id: str) -> Status | None:
        found = self.manager.get(container_id)
        return found.state.status if found else None

    async def settle(self) -> None:
        """Return when all that the agent has decided is with the tester."""
        await asyncio.wait_for(self.twin.quiet(), STEP)
        self._markers += 1
        marker = b"%d" % self._markers
        await self.tester.publish(_MARKER, marker)
        await until(lambda: (_MARKER, marker) in self.recorder.messages, "the marker to return")

    # ── what was seen ──

    def seen(self, *, everything: bool = False) -> list[Seen]:
        payloads: dict[str, deque[bytes]] = defaultdict(deque)
        sent = list(from_log(self.broker.log_lines(), self.agent.client_id))
        for topic, payload in self.recorder.messages:
            payloads[topic].append(payload)
        skipped = (
            0
            if everything
            else sum(1 for _ in from_log(self.broker.log_lines()[: self._log_start], self.agent.client_id))
        )
        found = []
        for index, (kind, topic, qos, retain) in enumerate(sent):
            payload = b""
            if kind == "publish":
                if not payloads[topic]:
                    break  # not with the tester yet
                payload = payloads[topic].popleft()
            if index >= skipped:
                found.append(Seen(kind, topic, payload, qos, retain))
        return found

    async def play(self) -> str:
        async with self.world():
            await self.prepare()
            loop = asyncio.get_running_loop()
            begin = loop.time()
            if self.vector.get("send"):
                await self.send(self.vector["send"])
            if stimulus := self.given.get("stimulus"):
                await self.stimulate(stimulus)
            await self.settle()
            await self._wait(begin + self.patience)
            if self.vector.get("forbid") and find_all(self.vector, self.seen()) is not None:
                end = begin + self.given.get("observe_ms", OBSERVE_MS) / 1000
                await asyncio.sleep(max(0.0, end - loop.time()))
                await self.settle()
            return verdict(self.vector, self.seen())

    async def _wait(self, deadline: float) -> None:
        """For everything that is expected, for an answer that excludes it, or for the deadline."""
        loop = asyncio.get_running_loop()
        size = -1
        while loop.time() < deadline:
            if size != len(self.recorder.messages):
                size = len(self.recorder.messages)
                seen = self.seen()
                if find_all(self.vector, seen) is not None or wrong_answer(self.vector, seen):
                    return
            await asyncio.sleep(_LOOK)


def _fits(pattern: str, topic: str) -> bool:
    return topic == pattern or (pattern.endswith("#") and topic.startswith(pattern[:-1]))


async def _play_bounded(broker: MosquittoServer, vector: Mapping[str, Any], patience: float) -> str:
    with tempfile.TemporaryDirectory(prefix="pycm-vector-") as home:
        try:
            return await asyncio.wait_for(
                LivePlayer(broker, pathlib.Path(home), vector, patience).play(), LIMIT + patience
            )
        except (TimeoutError, asyncio.TimeoutError) as error:
            return f"time limit: {error}"


def play(vector: Mapping[str, Any], patience: float = PATIENCE) -> str:
    """ "" if the vector holds, else what is wrong. Every vector has a broker of its own: nothing of one reaches the next."""
    with (
        tempfile.TemporaryDirectory(prefix="pycm-broker-") as directory,
        MosquittoServer(pathlib.Path(directory)) as broker,
    ):
        return asyncio.run(_play_bounded(broker, vector, patience))
