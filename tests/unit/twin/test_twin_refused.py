# SPDX-License-Identifier: Apache-2.0
"""What the broker refuses: the rest of the twin is published, and the refused part is sent again later."""

import asyncio
import json
import logging

import pytest
from twin_world import C1, C2, COMMANDS, DEVICE, EVENTS, NAME, THING, FakeMqtt, container

from pycm.config.types import Things
from pycm.errors import RefusedError, UnavailableError
from pycm.twin import service
from pycm.twin.service import TwinService
from support.fake_containers import FakeContainers
from support.fake_metrics import FakeMetrics
from support.waiting import until

ALL = [
    "/features/SoftwareUpdatable",
    f"/features/Container:{C1}",
    "/features/ContainerFactory",
    "/features/Metrics",
]
NEVER = 3600.0


@pytest.fixture
async def world(tmp_path):
    class World:
        mqtt = FakeMqtt()
        containers = FakeContainers([container(status="RUNNING")])
        home = tmp_path / "things"

        async def register(self):
            self.twin.mqtt_connected()
            await self.hear(DEVICE)

        async def hear(self, device):
            self.twin.mqtt_message("edge/thing/response", json.dumps(device).encode())
            await self.twin.idle()

        def features(self):
            return [path for path in self.mqtt.paths() if path.startswith("/features")]

    world = World()
    settings = Things(home_dir=str(world.home))
    world.twin = TwinService(world.mqtt, world.containers, FakeMetrics({}), settings)
    await world.twin.start()
    yield world
    await world.twin.stop()


def refuse(topic, pause=NEVER):
    return lambda asked: RefusedError(f"refused {asked}", pause) if asked == topic else None


async def test_twin_publishes_its_features_though_the_commands_are_refused(world):
    world.mqtt.failing = refuse(COMMANDS)
    await world.register()
    assert world.features() == ALL
    world.containers.rename_now(C1, "other")
    await world.twin.idle()
    assert world.features() == [f"/features/Container:{C1}/properties/status/name"]


async def test_twin_subscribes_again_in_time_and_publishes_nothing_for_it(world):
    world.mqtt.failing = refuse(COMMANDS, 0.01)
    await world.register()
    world.mqtt.sent.clear()
    await asyncio.sleep(0.05)
    world.mqtt.failing = lambda _: None
    await until(lambda: world.mqtt.sent)
    assert world.mqtt.paths() == [f"subscribe {COMMANDS}"]
    assert world.twin._retry_timer is None


async def test_twin_does_not_subscribe_again_for_a_thing_that_is_not_its_own_any_more(world):
    world.mqtt.failing = refuse(COMMANDS, 0.05)
    await world.register()
    await world.hear({**DEVICE, "deviceId": "acme.test:gw-02"})
    world.mqtt.failing = lambda _: None
    world.mqtt.sent.clear()
    await until(lambda: world.twin._retry_timer is None)
    await world.twin.idle()
    assert world.mqtt.sent == []


@pytest.mark.parametrize("topic", ["edge/thing/response", "edge/thing/request"])
async def test_twin_registers_though_the_connectors_topics_are_refused(world, topic):
    """A connector that starts later names the device unasked."""
    world.mqtt.failing = refuse(topic)
    await world.register()
    assert world.features() == ALL


async def test_twin_asks_for_the_device_again_when_it_may_hear_the_answer(world):
    """The connector has answered the first request while nobody listened, and names the device only when asked."""
    world.mqtt.failing = refuse("edge/thing/response", 0.01)
    world.twin.mqtt_connected()
    await world.twin.idle()
    world.mqtt.failing = lambda _: None
    world.mqtt.sent.clear()
    await until(lambda: len(world.mqtt.sent) > 1)
    assert world.mqtt.paths() == ["subscribe edge/thing/response", "publish edge/thing/request"]
    await world.hear(DEVICE)
    assert world.features() == ALL


async def test_twin_publishes_everything_again_when_a_refused_message_may_be_sent(world, caplog):
    caplog.set_level(logging.INFO, "pycm.twin")
    refusals = [RefusedError("too long", NEVER)]
    world.mqtt.failing = lambda topic: refusals.pop() if topic == EVENTS and refusals else None
    await world.register()
    assert world.features() == ALL[1:]
    assert world.twin._retry_timer is not None
    world.twin._retry()
    await world.twin.idle()
    assert world.features() == ALL
    assert caplog.text == ""


async def test_twin_keeps_a_refused_answer_for_one_more_attempt(world):
    await world.register()
    answer = f"command//{THING}/res/r1/204"
    world.mqtt.failing = refuse(answer, 0.01)
    path = "/features/Metrics/inbox/messages/request"
    headers = {"correlation-id": "c", "response-required": True, "content-type": "application/json"}
    command = {"topic": f"{NAME}/things/live/messages/x", "headers": headers, "path": path}
    payload = json.dumps({**command, "value": {"frequency": "0s"}}).encode()
    world.twin.mqtt_message(f"command//{THING}/req/r1/x", payload)
    await world.twin.idle()
    world.mqtt.failing = lambda _: None
    await until(lambda: any(topic == answer for _, topic, _ in world.mqtt.sent))


async def test_twin_takes_the_earliest_of_two_retries(world):
    world.mqtt.failing = refuse(COMMANDS, 50.0)
    await world.register()
    before = world.twin._retry_timer.when()
    world.mqtt.failing = refuse(EVENTS, 20.0)
    world.containers.rename_now(C1, "other")
    await world.twin.idle()
    earlier = world.twin._retry_timer.when()
    assert earlier < before
    world.mqtt.failing = refuse(EVENTS, 40.0)
    world.containers.rename_now(C1, "third")
    await world.twin.idle()
    assert world.twin._retry_timer.when() == earlier
    world.mqtt.failing = lambda topic: UnavailableError("no") if topic == EVENTS else None
    world.containers.rename_now(C1, "fourth")
    await world.twin.idle()
    assert world.twin._retry_timer.when() < earlier


async def test_twin_pauses_grow_over_connections_until_everything_was_sent(world):
    world.mqtt.failing = lambda topic: UnavailableError("no") if topic == EVENTS else None
    pauses = []
    for _ in range(3):
        await world.register()
        pauses.append(world.twin._backoff._pause)
        world.twin.mqtt_disconnected()
    assert pauses == [2 * service.RETRY_PAUSE, 4 * service.RETRY_PAUSE, 8 * service.RETRY_PAUSE]
    world.mqtt.failing = lambda _: None
    await world.register()
    await until(lambda: world.twin._backoff._pause == service.RETRY_PAUSE)


async def test_twin_forgets_what_was_refused_with_the_connection(world):
    world.mqtt.failing = refuse(COMMANDS, 0.05)
    await world.register()
    world.twin.mqtt_disconnected()
    assert world.twin._retry_timer is None
    world.mqtt.failing = lambda _: None
    world.containers.create_now(container(C2))
    await world.register()
    assert [p for p in world.mqtt.paths() if p.startswith("subscribe command")] == [f"subscribe {COMMANDS}"]
