# SPDX-License-Identifier: Apache-2.0
"""Figures of the machine: beside those of containers when a filter names them, and as the component system-metrics serves them."""

import json
import logging

import pytest
from twin_world import C1, DEVICE, World, container

from pycm.model.measurements import PROCESS_IDS, SYSTEM, SYSTEM_IDS, host_ids
from pycm.ports import HostMeasurements, Measurement
from pycm.twin.core import Twin
from pycm.twin.features.metrics import decode_request
from pycm.twin.outbox import MACHINE, HostBaseline, Keep, Measure
from pycm.twin.state import kept_from

REQUEST = "/features/Metrics/inbox/messages/request"
TOPIC = "acme.test/gw-01/things/live/messages/request"


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], SYSTEM_IDS),
        (["cpu.utilization"], ("cpu.utilization",)),
        (["cpu.*"], ("cpu.utilization", "cpu.load1", "cpu.load5", "cpu.load15")),
        (["cpu"], ("cpu.utilization",)),
        (["cpu.load"], ("cpu.load1", "cpu.load5", "cpu.load15")),
        (["cpu.load5"], ("cpu.load5",)),
        (["cpu.load1"], ("cpu.load1", "cpu.load15")),
        (["memory.*"], ("memory.total", "memory.available", "memory.used", "memory.utilization")),
        (["mem"], ()),
        (["*"], ("cpu.utilization",)),
        ([""], ("cpu.utilization",)),
        (["io.*"], ()),
    ],
)
def test_ids_of_the_machine_are_matched_as_the_original_does(texts, wanted):
    assert host_ids(SYSTEM, texts) == frozenset(wanted)


def test_ids_of_a_process():
    assert host_ids("sshd", []) == frozenset(PROCESS_IDS)
    assert host_ids("sshd", ["io.*"]) == {"io.readBytes", "io.writeBytes"}
    assert host_ids("sshd", ["cpu.*"]) == {"cpu.utilization"}


def test_a_filter_names_machine_and_processes_in_its_order_and_containers_apart():
    request = decode_request(
        {
            "frequency": 1,
            "filter": [
                {"originator": "sshd", "id": ["io.*"]},
                {"originator": "SYSTEM", "id": ["cpu.load5"]},
                {"originator": "Container:x"},
                {"originator": "SYSTEM", "id": ["memory.total"]},
            ],
        }
    )
    assert list(request.host().items()) == [
        ("sshd", {"io.readBytes", "io.writeBytes"}),
        ("SYSTEM", {"cpu.load5", "memory.total"}),
    ]
    assert decode_request({"frequency": 1}).host() == {}
    assert decode_request({"frequency": 1, "filter": [{"id": ["cpu.*"]}]}).host() == {}


def test_one_message_carries_containers_and_machine():
    world = World(
        [container(status="RUNNING")],
        stats={C1: [{"pids": 1}], "SYSTEM": [{"cpu.load5": 0.5, "memory.total": 8}]},
    )
    filters = [
        {"originator": "SYSTEM", "id": ["cpu.load5"]},
        {"originator": f"Container:{C1}", "id": ["pids"]},
    ]
    world.ask(REQUEST, {"frequency": "1s", "filter": filters})
    world.advance(world.now + 1)
    [data] = [json.loads(item.payload)["value"] for item in world.seen]
    assert data["snapshot"] == [
        {"originator": f"Container:{C1}", "measurements": [{"id": "pids", "value": 1}]},
        {"originator": "SYSTEM", "measurements": [{"id": "cpu.load5", "value": 0.5}]},
    ]


def test_the_machine_alone_is_told_too_and_its_baseline_taken_with_the_request():
    world = World(stats={"SYSTEM": [{"cpu.load5": 0.5}]})
    reaction = world.core._metrics._request("Metrics", {"frequency": 1, "filter": [{"originator": "SYSTEM"}]})
    assert HostBaseline("containers") in reaction.decisions
    world.carry_out(reaction.decisions)
    world.advance(world.now + 1)
    assert len(world.seen) == 1


# ── the device's own thing ──


class Machine:
    """A core with things.system_metrics, and what it decided."""

    def __init__(self, kept=None):
        self.core = Twin(list, system_metrics=True)
        if kept is not None:
            self.core.restore(kept_from(kept))
        self.core.connected()
        self.decided = self.edge(DEVICE)

    def edge(self, device):
        self.core.message("edge/thing/response", json.dumps(device).encode())
        return self.core.recalled(self.core.thing, [])

    def ask(self, value, path=REQUEST, topic=TOPIC, request="r1", **headers):
        headers = {"correlation-id": "c1", "response-required": True, **headers}
        payload = {"topic": topic, "headers": headers, "path": path, "value": value}
        self.decided = self.core.message(f"command///req/{request}/request", json.dumps(payload).encode())
        return [json.loads(one.payload) for one in self.published() if "/res/" in one.topic]

    def published(self):
        return [one for one in self.decided if type(one).__name__ == "Publish"]

    def periods(self):
        return [one.period for one in self.decided if isinstance(one, Measure) and one.reader == MACHINE]

    def measured(self):
        figures = HostMeasurements("SYSTEM", (Measurement("cpu.load5", 0.5),))
        return [json.loads(one.payload) for one in self.core.measured((), [figures], 77, MACHINE)]


def test_the_feature_is_shown_on_the_device_and_its_commands_are_listened_to():
    machine = Machine()
    [shown] = [one for one in machine.published() if one.topic == "e"]
    payload = json.loads(shown.payload)
    assert payload["topic"] == "acme.test/gw-01/things/twin/commands/modify"
    assert payload["path"] == "/features/Metrics"
    assert payload["value"] == {"definition": ["com.bosch.iot.suite.edge.metric:Metrics:1.0.0"]}
    assert payload["headers"]["response-required"] is False
    assert len(payload["headers"]["correlation-id"]) == 36
    topics = [one.topic for one in machine.decided if type(one).__name__ in ("Subscribe", "Publish")]
    assert topics.index("command///req/#") < topics.index("e")  # who sees the feature may ask at once


def test_the_feature_is_deleted_on_a_device_that_is_not_ours_any_more():
    machine = Machine()
    machine.decided = machine.core.message(
        "edge/thing/response", json.dumps({"deviceId": "acme.test:gw-02", "tenantId": "t"}).encode()
    )
    [gone] = [json.loads(one.payload) for one in machine.published() if one.topic == "e"]
    assert gone["topic"] == "acme.test/gw-01/things/twin/commands/delete"
    assert gone["path"] == "/features/Metrics"
    assert "value" not in gone
    machine.decided = machine.edge({"deviceId": "acme.test:gw-02", "tenantId": "other"})
    assert not [one for one in machine.published() if b"/delete" in one.payload and one.topic == "e"]


def test_a_request_is_answered_and_its_correlation_id_stands_in_the_data():
    machine = Machine()
    [answer] = machine.ask({"frequency": "2.9s"})
    assert answer == {
        "topic": TOPIC,
        "headers": {"correlation-id": "c1", "response-required": False},
        "path": "/features/Metrics/outbox/messages/request",
        "status": 204,
    }
    assert machine.published()[0].topic == "command///res/r1/204"
    assert machine.periods() == [2.0]
    assert machine.core.due(MACHINE).host == {"SYSTEM": {"cpu.utilization", "memory.utilization"}}
    assert machine.core.due().host == {}
    assert machine.measured() == [
        {
            "topic": "acme.test/gw-01/things/live/messages/data",
            "headers": {
                "content-type": "application/json",
                "correlation-id": "c1",
                "response-required": False,
            },
            "path": "/features/Metrics/outbox/messages/data",
            "value": {
                "snapshot": [{"originator": "SYSTEM", "measurements": [{"id": "cpu.load5", "value": 0.5}]}],
                "timestamp": 77,
            },
        }
    ]


def test_entries_without_originator_are_the_machine_and_a_period_of_zero_ends_it():
    machine = Machine()
    machine.ask({"frequency": 1, "filter": [{"id": ["cpu.load5"]}, {"originator": "sshd", "id": ["io.*"]}]})
    assert list(machine.core.due(MACHINE).host) == ["SYSTEM", "sshd"]
    machine.ask({"frequency": 0})
    assert machine.periods() == [None]
    assert not machine.core.due(MACHINE).host
    assert machine.measured() == []


def test_an_error_has_no_text():
    [answer] = Machine().ask({"frequency": "soon"})
    assert answer["headers"] == {
        "content-type": "application/json",
        "correlation-id": "c1",
        "response-required": False,
    }
    assert (answer["value"], answer["status"]) == (
        {"error": "messages:parameter.invalid", "status": 400},
        400,
    )


@pytest.mark.parametrize(
    "more",
    [
        {"path": "/features/Metrics/inbox/messages/other"},
        {"topic": "acme.test/gw-02/things/live/messages/request"},
        {"topic": "acme.test/gw-01:edge:containers/things/live/messages/request"},
        {"request": "a/b"},
    ],
)
def test_what_is_no_request_for_the_device_is_dropped_with_one_line(more):
    machine = Machine()
    assert machine.ask({"frequency": "1s"}, **more) == []
    assert [type(one).__name__ for one in machine.decided] == ["Note"]


def test_commands_for_others_on_the_shared_topic_fill_no_log():
    machine = Machine()
    machine.ask({}, path="/features/SoftwareUpdatable/inbox/messages/install")
    [note] = machine.decided
    assert note.level == logging.DEBUG
    machine.ask(5)
    assert [one.level for one in machine.decided if type(one).__name__ == "Note"] == [logging.WARNING]


def test_nobody_is_answered_who_does_not_ask_for_it():
    machine = Machine()
    assert machine.ask({"frequency": "1s"}, **{"response-required": False}) == []
    assert machine.ask({"frequency": "1s"}, request="") == []
    assert machine.core.due(MACHINE).host


def test_the_request_outlives_connection_and_agent_but_not_the_device():
    machine = Machine()
    machine.ask({"frequency": "5s"})
    state = next(one.state for one in machine.decided if isinstance(one, Keep))
    machine.decided = machine.core.disconnected()
    assert machine.periods() == [None]
    assert not machine.core.due(MACHINE).host
    machine.core.connected()
    machine.decided = machine.edge(DEVICE)
    assert machine.periods() == [5.0]
    later = Machine(json.loads(json.dumps(state)))
    assert later.periods() == [5.0]
    assert later.measured()[0]["headers"]["correlation-id"] == "c1"
    later.decided = later.edge({"deviceId": "acme.test:gw-02", "tenantId": "t"})
    assert later.periods() == [None]


def test_without_the_setting_nothing_of_this_is_there():
    core = Twin(list)
    core.connected()
    assert core.message("command///req/r/request", b"{}")[0].level
    assert not core.due(MACHINE).host
    assert core.measured((), (), 1, MACHINE) == []
