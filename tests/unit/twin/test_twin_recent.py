# SPDX-License-Identifier: Apache-2.0
"""A command that is delivered twice makes one container; what failed, or is gone again, can be asked for anew."""

import hashlib
import json
import logging

from test_twin_operations import FACTORY, ONE
from twin_world import C1, DEVICE, NAME, THING, Create, Download, HeldWorld, Start, World, container

from pycm.errors import OperationFailedError
from pycm.twin.commands import MAX_RECENT, RUNNING, Recent, mark_of
from support.fake_containers import container_of as made_of

IMAGE = {"imageRef": "registry.test/demo/app:1.0"}
INSTALL = "/features/SoftwareUpdatable/inbox/messages/install"
URL = "http://127.0.0.1:1/app.json"
BODY = json.dumps({"image": {"name": IMAGE["imageRef"]}}).encode()
MODULES = {
    "correlationId": "job",
    "softwareModules": [
        {
            "softwareModule": {"name": "app", "version": "1"},
            "artifacts": [
                {
                    "download": {"HTTP": {"url": URL}},
                    "checksums": {"SHA256": hashlib.sha256(BODY).hexdigest()},
                }
            ],
        }
    ],
}


def made(world):
    return [run for run in world.runs if isinstance(run.operation, Create)]


def create_command():
    headers = {"correlation-id": "c1", "response-required": True, "content-type": "application/json"}
    envelope = {
        "topic": f"{NAME}/things/live/messages/create",
        "headers": headers,
        "path": f"{FACTORY}/create",
    }
    return json.dumps({**envelope, "value": IMAGE}).encode()


def test_twin_ignores_retained_commands_with_one_warning():
    world = World(system_metrics=True)
    topics = [f"command//{THING}/req/r{number}/create" for number in range(3)]
    topics += ["command///req/r/request", f"command//{THING}/req//modified", f"command//{THING}/res/r/200"]
    for topic in topics:
        world.carry_out(world.core.message(topic, create_command(), retained=True))
    assert world.answers() == []
    assert not world.containers.all
    assert [note.level for note in world.notes] == [logging.WARNING] + [logging.DEBUG] * 5
    assert f"{topics[0]!r}" in world.notes[0].text
    assert "retained" in world.notes[0].text


def test_twin_runs_the_same_command_when_it_is_not_retained():
    world = World()
    topic = f"command//{THING}/req/r1/create"
    world.carry_out(world.core.message(topic, create_command(), retained=True))
    world.carry_out(world.core.message(topic, create_command(), retained=False))
    [(status, _)] = world.answers()
    assert status == 200
    assert len(world.containers.all) == 1


def test_twin_accepts_a_retained_device():
    world = World([container()], edge_response=None)
    world.carry_out(world.core.message("edge/thing/response", json.dumps(DEVICE).encode(), retained=True))
    assert ("subscribe", f"command//{THING}/req/#") in world.took()
    assert world.notes == []


def test_a_second_copy_of_a_creation_makes_no_second_container_and_gets_the_same_answer():
    world = World()
    [(status, first)] = world.ask(f"{FACTORY}/create", IMAGE)
    [second] = world.ask(f"{FACTORY}/create", IMAGE)
    assert status == 200
    assert second == (status, first)
    assert len(world.containers.all) == 1


def test_a_copy_that_comes_while_the_creation_runs_adds_nothing():
    world = HeldWorld()
    assert world.ask(f"{FACTORY}/create", IMAGE) == []
    assert world.ask(f"{FACTORY}/create", IMAGE) == []
    assert len(world.runs) == 1


def test_a_copy_that_comes_after_a_reconnect_adds_nothing():
    world = HeldWorld()
    world.ask(f"{FACTORY}/create", {**IMAGE, "start": True})
    world.stimulate("reconnect")
    world.send({"topic": "edge/thing/response", "payload": DEVICE})
    world.ask(f"{FACTORY}/create", {**IMAGE, "start": True})
    assert len(world.runs) == 1


def test_another_request_with_the_same_argument_is_another_container():
    world = World()
    for request in ("r1", "r2"):
        world.ask(f"{FACTORY}/create", IMAGE, request=request)
    world.ask(f"{FACTORY}/create", IMAGE, headers={"correlation-id": "another"})
    assert len(world.containers.all) == 3


def test_a_creation_that_failed_can_be_tried_again_as_it_is():
    world = HeldWorld()
    world.ask(f"{FACTORY}/create", IMAGE)
    world.end(made(world)[0], OperationFailedError("no network"))
    assert world.answers()[0][0] == 500
    world.ask(f"{FACTORY}/create", IMAGE)
    assert len(made(world)) == 1


def test_a_container_that_was_removed_can_be_asked_for_again():
    world = World()
    world.ask(f"{FACTORY}/create", IMAGE)
    [first] = world.containers.all
    world.ask(f"/features/Container:{first}/inbox/messages/remove", True)
    world.ask(f"{FACTORY}/create", IMAGE)
    assert len(world.containers.all) == 1
    assert first not in world.containers.all


def test_operations_that_ask_for_a_state_run_as_often_as_they_come():
    world = HeldWorld([container()])
    for _ in range(2):
        world.ask(f"{ONE}/start")
    world.end(world.runs[0])
    assert world.operations() == [Start(C1)]


def test_a_second_copy_of_an_installation_is_answered_and_does_not_run():
    world = HeldWorld()
    assert world.ask(INSTALL, MODULES)[0][0] == 204
    assert world.ask(INSTALL, MODULES)[0][0] == 204
    assert len(world.runs) == 1
    world.end(world.runs[0], BODY)
    world.end(world.runs[0], made_of(container("new")))
    world.end(world.runs[0])
    assert world.runs == []
    assert world.ask(INSTALL, MODULES)[-1][0] == 204
    assert world.runs == []


def test_an_installation_that_failed_can_be_tried_again_as_it_is():
    world = HeldWorld()
    world.ask(INSTALL, MODULES)
    world.end(world.runs[0], OperationFailedError("no network"))
    world.ask(INSTALL, MODULES)
    assert [type(operation) for operation in world.operations()] == [Download]


def test_a_one_way_creation_is_remembered_too():
    world = World()
    topic = f"command//{THING}/req//create"
    envelope = {
        "topic": "acme.test/gw-01:edge:containers/things/live/messages/create",
        "headers": {"correlation-id": "c", "content-type": "application/json"},
        "path": f"{FACTORY}/create",
        "value": IMAGE,
    }
    for _ in range(2):
        assert world.raw(json.dumps(envelope).encode(), topic) == []
    assert len(world.containers.all) == 1


def test_the_memory_has_a_bound_and_forgets_the_oldest():
    recent = Recent()
    marks = [mark_of("t", b"%d" % number) for number in range(MAX_RECENT + 1)]
    for mark in marks:
        recent.begin(mark)
    assert len(recent) == MAX_RECENT
    assert marks[0] not in recent
    assert recent.value(marks[1]) is RUNNING
    recent.end(marks[0], "late")
    assert marks[0] not in recent
