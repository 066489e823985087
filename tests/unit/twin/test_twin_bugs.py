# SPDX-License-Identifier: Apache-2.0
"""A bug in one operation, wherever it is: the cloud gets an answer, and the jobs behind it in the lane go on."""

import asyncio
import json
import logging

import pytest
from twin_world import C1, DEVICE, NAME, THING, FakeMqtt, container
from vector_fakes import FakeContainers, FakeMetrics

from pycm.twin import service
from pycm.twin.envelope import Problem
from pycm.twin.lanes import INTERNAL, Jobs, Property, Start, Task
from pycm.twin.outbox import Note, Run
from pycm.twin.service import TwinService, TwinSettings


class Ends:
    """`finish` of a job that remembers what came of it; with *bug* it fails."""

    def __init__(self, *, bug=False):
        self.values = []
        self._bug = bug

    def __call__(self, value):
        self.values.append(value)
        if self._bug:
            raise KeyError("finish")
        return []


def bug_at_once():
    raise KeyError("at once")
    yield


def bug_after_an_operation():
    yield Start(C1)
    raise KeyError("later")


def bug_after_a_property():
    yield Property("/x", 1)
    yield Start(C1)


def fine():
    return (yield Start(C1))


@pytest.mark.parametrize("steps", [bug_at_once, bug_after_an_operation])
def test_jobs_go_on_in_the_lane_after_a_bug_in_one_of_them(steps):
    jobs, first, second = Jobs(), Ends(), Ends()
    decisions = jobs.begin(Task("lane", steps()), first, lambda _: [])
    if steps is bug_after_an_operation:
        [run] = decisions
        jobs.begin(Task("lane", fine()), second, lambda _: [])
        decisions = jobs.done(run.ticket, None)
    else:
        decisions += jobs.begin(Task("lane", fine()), second, lambda _: [])
    [note, run] = decisions
    assert isinstance(note, Note)
    assert (note.level, "KeyError" in note.text) == (logging.ERROR, True)
    [problem] = first.values
    assert isinstance(problem, Problem)
    assert problem.message == INTERNAL
    assert isinstance(run, Run)
    jobs.done(run.ticket, "done")
    assert second.values == ["done"]
    assert len(jobs) == 0


def test_jobs_go_on_after_a_bug_in_what_a_job_tells():
    jobs, end, second = Jobs(), Ends(bug=True), Ends()

    def changed(_):
        raise KeyError("changed")

    notes = jobs.begin(Task("lane", bug_after_a_property()), end, changed)
    assert [type(note) for note in notes] == [Note, Note]
    [run] = jobs.begin(Task("lane", fine()), second, lambda _: [])
    jobs.done(run.ticket, "done")
    assert second.values == ["done"]


@pytest.fixture
async def world(tmp_path):
    class World:
        mqtt = FakeMqtt()
        containers = FakeContainers([container(status="RUNNING")])

        async def command(self, request, operation):
            headers = {"correlation-id": "c", "response-required": True}
            path = f"/features/Container:{C1}/inbox/messages/{operation}"
            envelope = {"topic": f"{NAME}/things/live/messages/x", "headers": headers, "path": path}
            self.twin.mqtt_message(f"command//{THING}/req/{request}/x", json.dumps(envelope).encode())

        def answers(self):
            return [topic.rsplit("/", 2)[1:] for _, topic, _ in self.mqtt.sent if "/res/" in topic]

    world = World()
    settings = TwinSettings(home_dir=str(tmp_path / "things"))
    world.twin = TwinService(world.mqtt, world.containers, FakeMetrics({}), settings)
    await world.twin.start()
    world.twin.mqtt_connected()
    world.twin.mqtt_message("edge/thing/response", json.dumps(DEVICE).encode())
    await world.twin.idle()
    yield world
    await world.twin.stop()


async def test_twin_answers_an_operation_that_was_cancelled_below_it(world, monkeypatch):
    async def cancelled(*_):
        raise asyncio.CancelledError

    monkeypatch.setattr(world.containers, "pause", cancelled, raising=False)
    monkeypatch.setattr(world.containers, "unpause", fine_call, raising=False)
    await world.command("r1", "pause")
    await world.command("r2", "resume")
    await world.twin.quiet()
    assert world.answers() == [["r1", "500"], ["r2", "204"]]


async def fine_call(*_):
    pass


async def test_twin_goes_on_sending_after_a_bug_in_the_handling_of_a_failure(world, monkeypatch, caplog):
    bugs = [RuntimeError("a bug")]
    world.mqtt.failing = lambda _: service.RefusedError("no", 1.0) if bugs else None
    monkeypatch.setattr(world.twin, "_refused", lambda *_: throw(bugs))
    world.containers.rename_now(C1, "one")
    await world.twin.idle()
    world.containers.rename_now(C1, "two")
    await world.twin.idle()
    assert json.loads(world.mqtt.sent[-1][2])["value"] == "two"
    assert "a bug: the twin may be out of sync" in caplog.text


def throw(bugs):
    raise bugs.pop()


async def test_twin_stops_after_a_bug_in_what_it_keeps(world, monkeypatch):
    monkeypatch.setattr(world.twin._kept, "write", lambda _: throw([RuntimeError("a bug")]))
    world.twin._keep({"x": 1})
    await world.twin.stop()
    assert world.mqtt.stopped == 1
