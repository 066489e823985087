# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to broker and agent, in the end the cloud's twin equals the truth, and few messages were needed."""

import json
import random

import pytest
from twin_world import DEVICE, THING, World, container

from pycm.model.states import Status
from pycm.twin.features.container import ContainerFeature
from pycm.twin.features.software_updatable import dependencies
from pycm.twin.state import kept_from
from support.ditto_twin import DittoTwin

COUNT = 20
IDS = [f"11111111-2222-4333-8444-5555555555{number:02}" for number in range(COUNT)]


class Cloud(World):
    """The core with a connector that says who the device is, and what the cloud then holds."""

    def __init__(self, **given):
        self.cloud = DittoTwin()
        super().__init__([container(one) for one in IDS], edge_response=None, connected=False, **given)

    def carry_out(self, decisions):
        super().carry_out(decisions)
        self.deliver()

    def deliver(self):
        for item in self.seen:
            if item.kind == "publish":
                self.cloud.apply(item.topic, json.loads(item.payload))
        self.seen.clear()

    def up(self, device=DEVICE):
        self.carry_out(self.core.connected())
        self.tell(device)

    def tell(self, device=DEVICE):
        self.send({"topic": "edge/thing/response", "payload": device})

    def down(self):
        self.carry_out(self.core.disconnected())

    def change(self, chance):
        """Something happens to a container."""
        known = list(self.containers.all)
        one = chance.choice(known)
        status = self.containers.all[one].state.status
        kind = chance.randrange(5)
        if kind == 0 and len(known) > 3:
            self.containers.remove_now(one)
        elif kind == 1 and len(known) < 2 * COUNT:
            self.containers.create_now(container(f"new-{chance.randrange(10**9)}"))
        elif kind == 2:
            self.containers.rename_now(one, f"name-{chance.randrange(10**9)}")
        elif status is Status.RUNNING:
            self.containers.exit_now(one, chance.randrange(256))
        else:
            self.containers.run_now(one)

    def truth(self):
        containers = self.containers.list()
        shown = {f"Container:{one.id}": ContainerFeature().value_of(one) for one in containers}
        status = {
            "softwareModuleType": "oci:container",
            "installedDependencies": dependencies(containers) or None,
        }
        return {
            **json.loads(json.dumps(shown)),
            "ContainerFactory": {
                "definition": ["com.bosch.iot.suite.edge.containers:ContainerFactory:1.3.0"]
            },
            "Metrics": {"definition": ["com.bosch.iot.suite.edge.metric:Metrics:1.0.0"]},
            "SoftwareUpdatable": {
                "definition": ["org.eclipse.hawkbit.swupdatable:SoftwareUpdatable:2.0.0"],
                "properties": {"status": status},
            },
        }


@pytest.fixture
def chance():
    return random.Random(5)


def test_ten_minutes_of_changes_without_a_broker_cost_one_message_a_feature(chance):
    world = Cloud()
    world.up()
    world.down()
    before = world.cloud.count
    for _ in range(600 * 10):  # ten changes a second
        world.change(chance)
    assert world.cloud.count == before
    world.up()
    assert world.cloud.things[THING] == world.truth()
    gone = COUNT - len(set(IDS) & set(world.containers.all))
    assert world.cloud.count - before == len(world.containers.all) + 3 + gone


def test_a_broker_that_flaps_each_second_for_a_minute(chance):
    """The connector answers at every second try only, as one that has to start itself."""
    world = Cloud()
    registrations = messages = 0
    for second in range(60):
        world.carry_out(world.core.connected())
        for _ in range(5):
            world.change(chance)
        before = world.cloud.count
        if second % 2:
            world.tell()
            registrations += 1
            world.tell()  # says so again: nothing
            assert world.cloud.things[THING] == world.truth()
            messages = max(messages, world.cloud.count - before)
        world.down()
    world.up()
    assert world.cloud.things[THING] == world.truth()
    assert (
        messages <= 2 * COUNT + 3 + COUNT
    )  # no more than containers there can be, features, and removals since the last time
    assert world.cloud.count <= (registrations + 1) * (3 * COUNT + 3)


def test_changes_while_there_is_a_session_are_told_one_by_one_and_the_twin_is_always_true(chance):
    world = Cloud()
    world.up()
    for _ in range(500):
        before = world.cloud.count
        world.change(chance)
        assert world.cloud.count - before <= 3
        assert world.cloud.things[THING] == world.truth()


def test_an_agent_that_is_started_anew_brings_the_twin_to_the_truth(chance):
    world = Cloud()
    world.up()
    shown = list(world.containers.all)
    world.down()
    for _ in range(200):
        world.change(chance)
    later = Cloud(stored_container_ids=shown)
    later.cloud, later.containers.all = world.cloud, world.containers.all
    later.core.restore(kept_from({"thing": THING, "tenant": "tenant-a"}, tuple(shown)))
    later.up()
    assert later.cloud.things[THING] == later.truth()


def test_after_a_move_the_old_twin_is_empty_and_the_new_one_true(chance):
    world = Cloud()
    world.up()
    for _ in range(50):
        world.change(chance)
    world.tell({"deviceId": "acme.test:gw-02", "tenantId": "tenant-b"})
    assert world.cloud.things[THING] == {}
    assert world.cloud.things["acme.test:gw-02:edge:containers"] == world.truth()


def test_the_cloud_of_these_tests_refuses_what_ditto_would():
    cloud = DittoTwin()
    message = {
        "topic": "a/b/things/twin/commands/modify",
        "headers": {"response-required": False},
        "value": 1,
    }
    with pytest.raises(AssertionError, match="before what it is in"):
        cloud.apply("e/t/a:b", {**message, "path": "/features/F/properties/x"})
    with pytest.raises(AssertionError, match="carries a message for"):
        cloud.apply("e/t/a:c", {**message, "path": "/features/F"})
