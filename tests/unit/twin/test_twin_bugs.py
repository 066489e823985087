# SPDX-License-Identifier: Apache-2.0
"""A bug in one operation, wherever it is: the cloud gets an answer, and the jobs behind it in the lane go on."""

import asyncio
import json

import pytest
from twin_world import C1, DEVICE, NAME, THING, FakeMqtt, container

from pycm.config.types import Things
from pycm.errors import OperationFailedError
from pycm.twin import service
from pycm.twin.envelope import Problem
from pycm.twin.lanes import CREATIONS, INTERNAL, MAX_CREATIONS, Lanes
from pycm.twin.outbox import Keep, Run
from pycm.twin.service import TwinService
from support.fake_containers import FakeContainers
from support.fake_metrics import FakeMetrics


class Bench:
    """Lanes with tasks of their own; `ends` holds what came of each job, by its thing."""

    def __init__(self, *, bug=False):
        self.tasks, self.ends, self.told = [], {}, []
        self._bug = bug
        self.lanes = Lanes(self._spawn, None, None, changed=self._changed, ended=self._ended)

    def _spawn(self, work):
        self.tasks.append(asyncio.ensure_future(work))

    def _changed(self, run, name, value):
        if self._bug:
            raise KeyError("changed")
        self.told.append((name, value))

    def _ended(self, run, outcome):
        self.ends[run.thing] = outcome
        if self._bug:
            raise KeyError("ended")

    def begin(self, name, job, lane="lane"):
        self.lanes.begin(Run(lane, job, name, 0, lambda _: []))

    async def quiet(self):
        while pending := [task for task in self.tasks if not task.done()]:
            await asyncio.wait(pending)


async def bug_at_once(_):
    raise KeyError("at once")


async def bug_after_an_operation(_):
    await asyncio.sleep(0)
    raise KeyError("later")


async def cancelled(_):
    raise asyncio.CancelledError


async def fine(_):
    return "done"


@pytest.mark.parametrize("job", [bug_at_once, bug_after_an_operation, cancelled])
async def test_lane_continues_after_a_bug_in_a_job(caplog, job):
    bench = Bench()
    bench.begin("first", job)
    bench.begin("second", fine)
    await bench.quiet()
    assert isinstance(bench.ends["first"], Problem)
    assert bench.ends["first"].message == INTERNAL
    assert ("KeyError" in caplog.text) is (job is not cancelled)
    assert bench.ends["second"] == "done"


async def test_lane_continues_after_a_bug_in_what_follows_a_job(caplog):
    async def tells(context):
        context.tell("status", 1)

    bench = Bench(bug=True)
    bench.begin("first", tells)
    bench.begin("second", fine)
    await bench.quiet()
    assert bench.ends["first"].message == INTERNAL
    assert bench.ends["second"] == "done"
    assert "KeyError: 'changed'" in caplog.text
    assert caplog.text.count("KeyError: 'ended'") == 2


async def test_lane_reports_the_failure_of_a_job():
    async def fails(_):
        raise OperationFailedError("secret", masked="***")

    bench = Bench()
    bench.begin("first", fails)
    await bench.quiet()
    problem = bench.ends["first"]
    assert (problem.message, problem.masked, problem.kind.status) == ("secret", "***", 500)


async def test_lanes_run_beside_each_other_and_jobs_of_one_lane_in_order():
    bench, gate, begun = Bench(), asyncio.Event(), []

    def waits(name):
        async def job(_):
            begun.append(name)
            await gate.wait()

        return job

    for lane, name in (("a", "a1"), ("b", "b1"), ("a", "a2")):
        bench.begin(name, waits(name), lane)
    for number in range(MAX_CREATIONS + 1):
        bench.begin(number, waits(number), CREATIONS)
    await asyncio.sleep(0)
    assert begun == ["a1", "b1", *range(MAX_CREATIONS)]
    gate.set()
    await bench.quiet()
    assert begun[-2:] == ["a2", MAX_CREATIONS]
    assert len(bench.ends) == len(begun)
    assert bench.lanes._pending == bench.lanes._workers == {}


async def test_lanes_that_are_closed_end_with_their_tasks():
    async def waits(_):
        await asyncio.Event().wait()

    bench = Bench()
    bench.begin("first", waits)
    bench.begin("second", fine)
    await asyncio.sleep(0)
    bench.lanes.closed = True
    bench.tasks[0].cancel()
    await bench.quiet()
    assert bench.tasks[0].cancelled()
    assert bench.ends == {}


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
    settings = Things(home_dir=str(tmp_path / "things"))
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
    assert "bug while sending" in caplog.text


def throw(bugs):
    raise bugs.pop()


async def test_twin_stops_after_a_bug_in_what_it_keeps(world, monkeypatch):
    monkeypatch.setattr(world.twin._kept, "write", lambda _: throw([RuntimeError("a bug")]))
    world.twin._keep(Keep({"x": 1}))
    await world.twin.stop()
    assert world.mqtt.stopped == 1
