# SPDX-License-Identifier: Apache-2.0
"""The session with the connector: announcement, devices, and what a loss of the connection means."""

import json

import pytest
from twin_world import C1, C2, COMMANDS, DEVICE, EVENTS, World, container

from pycm.twin.session import TRANSITIONS, Device, Input, Phase, Session

OTHER = {"deviceId": "acme.test:gw-02", "tenantId": "tenant-b"}
REGISTERED = [
    ("modify", "/features/SoftwareUpdatable"),
    ("modify", f"/features/Container:{C1}"),
    ("modify", "/features/ContainerFactory"),
    ("modify", "/features/Metrics"),
]


def edge(world, message):
    world.send({"topic": "edge/thing/response", "payload": message})


def test_commands_are_listened_to_before_a_feature_shows_and_the_list_comes_before_the_details_and_metrics():
    world = World([container()], edge_response=None)
    edge(world, DEVICE)
    assert world.took() == [("subscribe", COMMANDS), *REGISTERED]


def test_the_same_answer_again_changes_nothing():
    world = World([container()])
    edge(world, DEVICE)
    assert world.took() == []


def test_another_policy_registers_anew_without_a_second_subscription():
    world = World([container()])
    edge(world, {**DEVICE, "policyId": "acme.test:other"})
    assert world.took() == REGISTERED


def test_another_device_is_moved_to_and_the_old_one_left():
    world = World([container()])
    edge(world, OTHER)
    new = "acme.test:gw-02:edge:containers"
    took = world.took()
    assert took[0] == ("unsubscribe", COMMANDS)
    deleted = [("delete", path) for _, path in (REGISTERED[1], REGISTERED[0], *REGISTERED[2:])]
    assert took[1:] == [*deleted, ("subscribe", f"command//{new}/req/#"), *REGISTERED]


def test_the_features_of_an_old_device_are_deleted_in_its_own_twin_and_only_once():
    world = World([container()], stored_container_ids=[C1])
    edge(world, OTHER)
    deletes = [item for item in world.seen if b"/commands/delete" in item.payload]
    assert {item.topic for item in deletes} == {EVENTS}
    assert all(json.loads(item.payload)["topic"].startswith("acme.test/gw-01:") for item in deletes)
    world.seen.clear()
    world.stimulate("mqtt-reconnect")
    edge(world, OTHER)
    assert not [path for kind, path in world.took() if kind == "delete"]


def test_a_device_that_changed_while_there_was_no_connection_is_cleared_too():
    world = World([container()])
    world.carry_out(world.core.disconnected())
    world.containers.remove_now(C1)
    world.carry_out(world.core.connected())
    world.seen.clear()
    edge(world, OTHER)
    assert ("delete", f"/features/Container:{C1}") in world.took()


def test_a_change_of_the_tenant_alone_moves_everything_as_well():
    world = World([container()])
    edge(world, {**DEVICE, "tenantId": "tenant-b"})
    first = [item for item in world.seen if item.kind == "publish"]
    assert [item.topic for item in first[:4]] == [EVENTS] * 4
    assert {item.topic for item in first[4:]} == {EVENTS.replace("tenant-a", "tenant-b")}


def test_what_could_not_be_deleted_in_the_old_twin_is_tried_again_with_the_next_connection():
    world = World([container()])
    core = world.core
    core.message(
        "edge/thing/response", json.dumps(OTHER).encode()
    )  # the decisions are lost with the connection
    world.carry_out(core.disconnected())
    world.carry_out(core.connected())
    world.seen.clear()
    edge(world, OTHER)
    assert ("delete", f"/features/Container:{C1}") in world.took()


def test_a_device_that_comes_back_keeps_its_features():
    world = World([container()])
    world.core.message("edge/thing/response", json.dumps(OTHER).encode())
    edge(world, DEVICE)
    assert not [item for item in world.seen if item.topic == EVENTS and b"/commands/delete" in item.payload]


def test_after_a_reconnect_the_same_device_is_registered_anew():
    world = World([container()])
    world.stimulate("mqtt-reconnect")
    assert world.took() == [("subscribe", "edge/thing/response"), ("publish", "edge/thing/request")]
    edge(world, DEVICE)
    assert world.took() == [("subscribe", COMMANDS), *REGISTERED]


def test_while_there_is_no_session_nothing_is_told_and_then_the_truth_is():
    world = World([container(status="RUNNING"), container(C2)])
    world.carry_out(world.core.disconnected())
    for number in range(1000):
        world.containers.rename_now(C1, f"name-{number}")
    world.containers.remove_now(C2)
    assert world.took() == []
    world.carry_out(world.core.connected())
    edge(world, DEVICE)
    names = [
        json.loads(item.payload)["value"]["properties"]["status"]["name"]
        for item in world.seen
        if b"Container:1" in item.payload[:200] and b"modify" in item.payload
    ]
    assert names == ["name-999"]
    assert ("delete", f"/features/Container:{C2}") in world.took()


def test_a_retry_announces_and_registers_anew_without_waiting_for_the_connector():
    world = World([container()])
    world.carry_out(world.core.retry())
    assert world.took() == [
        ("subscribe", "edge/thing/response"),
        ("publish", "edge/thing/request"),
        ("subscribe", COMMANDS),
        *REGISTERED,
    ]


def test_leaving_ends_both_subscriptions():
    world = World()
    world.carry_out(world.core.leave())
    assert world.took() == [("unsubscribe", "edge/thing/response"), ("unsubscribe", COMMANDS)]
    world.carry_out(world.core.leave())
    assert world.took() == []


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"tenantId": "t"},
        {"deviceId": "no-colon", "tenantId": "t"},
        {"deviceId": ":name", "tenantId": "t"},
        {"deviceId": "ns:", "tenantId": "t"},
        {"deviceId": "ns:a"},
        {"deviceId": "ns:a", "tenantId": ""},
        {"deviceId": 5, "tenantId": "t"},
        {"deviceId": "ns:a", "tenantId": ["t"]},
        {"deviceId": "ns:../../x", "tenantId": "t"},
        {"deviceId": "ns:a", "tenantId": "+"},
        {"deviceId": "ns:a#", "tenantId": "t"},
        {"deviceId": "ns:a\u0000", "tenantId": "t"},
        {"deviceId": "ns:" + "a" * 300, "tenantId": "t"},
        [],
        "text",
        None,
    ],
)
def test_a_device_that_cannot_be_one_is_logged_in_one_line_and_changes_nothing(message):
    world = World([container()])
    edge(world, message)
    assert world.took() == []
    assert len(world.notes) == 1
    assert "edge/thing/response" in world.notes[0].text
    assert "\n" not in world.notes[0].text


def test_keys_of_the_answer_count_in_any_case_and_unknown_ones_do_not_matter():
    world = World(edge_response=None)
    edge(world, {"DEVICEID": "ns:a:b", "TenantId": "t", "gatewayId": 7})
    assert ("subscribe", "command//ns:a:b:edge:containers/req/#") in world.took()


def test_a_recall_that_comes_late_for_another_thing_is_not_used():
    world = World()
    thing = world.core.thing
    edge(world, OTHER)
    world.took()
    world.carry_out(world.core.recalled(thing, [C1]))
    assert world.took() == []


def test_only_enabled_features_are_registered_and_answer():
    world = World([container()], features=["SoftwareUpdatable", "Nonsense"])
    assert world.ask("/features/Metrics/inbox/messages/request", {})[0][0] == 400
    assert world.ask(f"/features/Container:{C1}/inbox/messages/start", {})[0][0] == 400
    world.containers.run_now(C1)
    assert world.took() == []


def test_every_phase_ends_offline_on_a_loss_and_what_is_not_in_the_table_changes_nothing():
    for phase in Phase:
        for event in Input:
            session = Session()
            session.phase = phase
            session.device = Device("ns:a", "t")
            steps = session.feed(event)
            expected = TRANSITIONS.get((phase, event))
            assert (session.phase, steps) == (expected or (phase, ()))
            if event is Input.LOST:
                assert session.phase is Phase.OFFLINE


def test_everything_is_published_under_tenant_and_thing():
    world = World([container()], edge_response=None)
    edge(world, DEVICE)
    assert {item.topic for item in world.seen if item.kind == "publish"} == {EVENTS}
