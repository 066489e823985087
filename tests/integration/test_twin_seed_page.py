# SPDX-License-Identifier: Apache-2.0
"""The commands of the product's page, typed as they stand there, against the twin with a faked runtime."""

import asyncio
import json
import pathlib
import sys

import pytest
from mosquitto_server import PATIENCE, MosquittoServer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "vectors"))

from pycm.config.types import Connection, Things
from pycm.mqtt.client import MqttClient
from pycm.twin.service import TwinService
from support.fake_containers import FakeContainers
from support.fake_metrics import FakeMetrics

pytestmark = pytest.mark.integration

EDGE = '{"deviceId":"dummy-namespace:dummy-gateway:dummy-device-id","tenantId":"dummy-tenant-id"}'
THING = "dummy-namespace:dummy-gateway:dummy-device-id:edge:containers"
EVENTS = f"e/dummy-tenant-id/{THING}"
REQUEST_ID = "3fdc463c-293c-4f39-ab19-24aef7944550"
REQUEST = f"command//{THING}/req/{REQUEST_ID}/request"
MESSAGE = (
    '{"topic":"dummy-namespace/dummy-gateway:dummy-device-id:edge:containers/things/live/messages/request",'
    '"headers":{"timeout":"10","response-required":true,"content-type":"application/json",'
    f'"correlation-id":"{REQUEST_ID}"}},"path":"/features/Metrics/inbox/messages/request","value":{{"frequency":"FREQ"}}}}'
)
ONE = {"id": "c-1", "name": "one", "image": "registry.test/demo/app:1.0", "status": "RUNNING", "pid": 7}
HOSTILE = [
    b"not json",
    b"[" * 10_000,
    b"\xff\xfe\x00",
    b'{"topic":1}',
    b'{"topic":"a/b/c","path":"/features/../../x/inbox/messages/start","headers":{"response-required":"yes"}}',
    b'{"topic":"a/b/c","path":"/x","headers":{"correlation-id":5},"value":1e999}',
    b"x" * ((1 << 20) + 1),
]


async def until(condition):
    async def look():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), PATIENCE)


class Sub:
    """Lines of mosquitto_sub, parsed as they come."""

    def __init__(self, broker, topic):
        self.process = broker.subscribe(topic, "-q", "1")

    async def next(self):
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), PATIENCE)
        topic, _, text = line.partition(" ")
        return topic, json.loads(text)

    def end(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.fixture
async def world(tmp_path):
    with MosquittoServer(tmp_path) as broker:
        containers = FakeContainers([ONE])
        metrics = FakeMetrics(
            {"c-1": [{"cpu_used": 0, "cpu_total": 1}, {"pids": 2, "mem_used": 1, "mem_total": 4}]}
        )
        mqtt = MqttClient(Connection(broker_url=broker.url))
        twin = TwinService(mqtt, containers, metrics, Things(home_dir=str(tmp_path / "things")))
        await twin.start()
        await until(lambda: mqtt.connected)
        await twin.idle()
        subs = []

        def sub(topic):
            subs.append(Sub(broker, topic))
            return subs[-1]

        yield broker, twin, sub
        for one in subs:
            one.end()
        await twin.stop()


async def typed(broker, topic, message):
    await asyncio.to_thread(broker.publish, topic, message)


async def test_the_commands_of_the_page_work_as_they_stand(world):
    broker, _, sub = world
    events, answers = sub("e/#"), sub(f"command//{THING}/res/#")
    await typed(broker, "edge/thing/response", EDGE)
    paths = [(await events.next()) for _ in range(4)]
    assert {topic for topic, _ in paths} == {EVENTS}
    assert [payload["path"] for _, payload in paths] == [
        "/features/SoftwareUpdatable",
        "/features/Container:c-1",
        "/features/ContainerFactory",
        "/features/Metrics",
    ]
    assert list(paths[0][1]["value"]["properties"]["status"]["installedDependencies"]) == [
        "registry.test%2Fdemo%2Fapp.c-1:1.0"
    ]
    await subscribed(broker)
    await typed(broker, REQUEST, MESSAGE.replace("FREQ", "1s"))
    topic, answer = await answers.next()
    assert topic == f"command//{THING}/res/{REQUEST_ID}/204"
    assert answer["headers"] == {"correlation-id": REQUEST_ID}
    first, second = await events.next(), await events.next()
    for topic, data in (first, second):
        assert topic == EVENTS
        assert data["path"] == "/features/Metrics/outbox/messages/data"
        [one] = data["value"]["snapshot"]
        assert one["originator"] == "Container:c-1"
        assert [figure["id"] for figure in one["measurements"]][:2] == ["memory.total", "memory.used"]
    await typed(broker, REQUEST, MESSAGE.replace("FREQ", "0s"))
    assert (await answers.next())[1]["status"] == 204


async def subscribed(broker):
    """The last step of a registration."""
    await until(lambda: any(line.endswith(f"{THING}/req/#") for line in broker.log_lines()))


async def test_after_everything_that_is_wrong_the_next_command_works_and_each_is_logged_in_one_line(
    world, caplog
):
    broker, twin, sub = world
    answers = sub(f"command//{THING}/res/#")
    await typed(broker, "edge/thing/response", EDGE)
    await subscribed(broker)
    for payload in HOSTILE:
        await typed(broker, "edge/thing/response", payload)
        await typed(broker, f"command//{THING}/req//x", payload)
    await typed(broker, REQUEST, MESSAGE.replace("FREQ", "5s"))
    assert (await answers.next())[1]["status"] == 204
    await twin.idle()
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == "pycm.twin" and record.levelname == "WARNING"
    ]
    assert len(lines) == 2 * len(HOSTILE)
    assert all("\n" not in line and len(line) < 500 for line in lines)
    assert not [record for record in caplog.records if record.exc_info]
