# SPDX-License-Identifier: Apache-2.0
"""Events, Stats and Wait of pycm's own service: what is told, bounds, and an end for those who do not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from grpclib.client import Stream, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import StreamClosedError

from pycm.api.methods import AGENT
from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.api.server import grpc, watching
from pycm.model.container import Container, State
from pycm.model.measurements import CPU_UTILIZATION, MEMORY_USED
from pycm.model.states import Status as ContainerStatus
from pycm.ports import Action, Measurement
from support.api_world import WAIT, World, eventually, running


def ended(identifier: str, code: int) -> Container:
    return running(identifier, state=State(status=ContainerStatus.EXITED, exited=True, exit_code=code))


@asynccontextmanager
async def opened(world: World, method: str, request: Any, reply: Any) -> AsyncIterator[Stream[Any, Any]]:
    call = UnaryStreamMethod(world.channel, AGENT + method, type(request), reply)
    with suppress(GRPCError, StreamTerminatedError):
        async with call.open(timeout=WAIT) as stream:
            await stream.send_message(request, end=True)
            yield stream
            with suppress(StreamClosedError):
                await stream.cancel()


@asynccontextmanager
async def events(world: World, **request: Any) -> AsyncIterator[Stream[Any, Any]]:
    async with opened(world, "Events", m.EventsRequest(**request), m.Event) as stream:
        await stream.recv_initial_metadata()
        yield stream


async def unary(world: World, method: str, request: Any, reply: Any) -> Any:
    return await UnaryUnaryMethod(world.channel, AGENT + method, type(request), reply)(request, timeout=WAIT)


async def refusal(world: World, method: str, request: Any) -> tuple[Status, str | None]:
    with pytest.raises(GRPCError) as caught:
        await unary(world, method, request, m.WaitResponse)
    return caught.value.status, caught.value.message


# ── events ──


async def test_an_event_says_what_happened_to_which_container(world: World) -> None:
    async with events(world) as stream:
        world.containers.tell(Action.EXITED, ended("a", 7))
        event = await stream.recv_message()
        assert (event.action, event.container_id, event.container_name) == ("exited", "a", "name of a")
        assert (event.image, event.status, event.exit_code) == ("x:1", "Exited", 7)
        assert event.time.endswith("Z")
    await eventually(lambda: world.watchers == [])


async def test_events_are_filtered_by_container_and_action(world: World) -> None:
    async with events(world, container_ids=["b"], actions=["running", "exited"]) as stream:
        world.containers.tell(Action.RUNNING, running("a"))
        world.containers.tell(Action.PAUSED, running("b"))
        world.containers.tell(Action.RUNNING, running("b"))
        event = await stream.recv_message()
        assert (event.action, event.container_id) == ("running", "b")


async def test_an_action_that_is_none_is_refused_with_those_there_are(world: World) -> None:
    status, text = await refusal(world, "Events", m.EventsRequest(actions=["burst"]))
    assert status is Status.INVALID_ARGUMENT
    assert str(text).startswith("action 'burst' is none of created, running,")


async def test_a_client_that_is_too_slow_is_cut_off_and_its_events_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_EVENTS", 10)
    async with events(world) as stream:
        for _ in range(11):  # faster than one can be sent
            world.containers.tell(Action.UPDATED, running("a"))
        trailers = dict(await asyncio.wait_for(stream._stream.recv_trailers(), WAIT))
    assert trailers["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
    assert "reads too slowly: 10 events waited" in trailers["grpc-message"]
    assert world.watchers == []


async def test_a_client_that_stops_reading_is_gone_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc, "STALLED", 0.05)
    fat = running("a", state=State(status=ContainerStatus.EXITED, error="x" * 1_000_000))
    async with events(world):
        for _ in range(8):  # more than the window that is open
            world.containers.tell(Action.EXITED, fat)
        await eventually(lambda: world.watchers == [])
        monkeypatch.setattr(grpc, "STALLED", WAIT)
    await world.is_well()


@pytest.mark.parametrize("method", ["Events", "Stats"])
async def test_there_is_a_bound_of_clients_and_room_when_one_goes(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(watching, "MOST_CLIENTS", 1)
    request = m.EventsRequest() if method == "Events" else m.StatsRequest(interval_ms=watching.LONGEST)
    open_calls = "listeners" if method == "Events" else "meters"
    holder = world.containers if method == "Events" else world.metrics
    async with opened(world, method, request, m.Event):
        await eventually(lambda: len(getattr(holder, open_calls)) == 1)
        assert (await refusal(world, method, request))[0] is Status.RESOURCE_EXHAUSTED
    async with opened(world, method, request, m.Event):
        await world.is_well()


# ── stats ──


async def test_figures_of_the_containers_that_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SHORTEST", 1)
    world.containers.present = {"a": running("a"), "b": ended("b", 1), "c": running("c")}
    world.metrics.figures["a"] = [Measurement(CPU_UTILIZATION, 12.5), Measurement(MEMORY_USED, 1024)]
    world.metrics.figures["b"] = [Measurement(MEMORY_USED, 1)]
    async with opened(world, "Stats", m.StatsRequest(interval_ms=1, samples=2), m.StatsResponse) as stream:
        samples = [await stream.recv_message(), await stream.recv_message()]
        assert await stream.recv_message() is None
    for sample in samples:
        (one,) = sample.containers
        assert (one.container_id, one.container_name) == ("a", "name of a")
        assert (one.cpu_percent, one.memory_used_bytes) == (12.5, 1024)
        assert not one.HasField("pids")
    assert [meter.samples for meter in world.metrics.meters] == [
        3
    ]  # the first is what the others are compared with


async def test_nothing_is_measured_when_nobody_asks_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SHORTEST", 1)
    world.containers.present = {"a": running("a")}
    async with opened(world, "Stats", m.StatsRequest(interval_ms=1), m.StatsResponse) as stream:
        await stream.recv_message()
    await world.is_well()
    (meter,) = world.metrics.meters
    before = meter.samples
    await asyncio.sleep(0.02)
    assert meter.samples <= before + 1


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (m.StatsRequest(interval_ms=499), Status.INVALID_ARGUMENT, "an interval of 499 ms cannot be"),
        (m.StatsRequest(container_ids=["no"]), Status.NOT_FOUND, "no such container with id = no exists"),
        (m.StatsRequest(container_ids=["x"] * 1001), Status.INVALID_ARGUMENT, "1001 ids, 1000 are allowed"),
    ],
)
async def test_stats_that_cannot_be_are_refused(
    world: World, request_: Any, status: Status, text: str
) -> None:
    found, message = await refusal(world, "Stats", request_)
    assert found is status
    assert text in str(message)


# ── wait ──


@pytest.mark.parametrize(
    ("condition", "now", "code"),
    [(m.NOT_RUNNING, ended("a", 3), 3), (m.RUNNING, running("a"), 0)],
)
async def test_what_is_so_already_is_answered_at_once(
    world: World, condition: int, now: Container, code: int
) -> None:
    world.containers.present["a"] = now
    answer = await unary(world, "Wait", m.WaitRequest(container_id="a", condition=condition), m.WaitResponse)  # type: ignore[arg-type]
    assert (answer.exit_code, answer.status) == (code, now.state.status.word)
    assert world.watchers == []


@pytest.mark.parametrize(
    ("condition", "passed_over", "action", "then"),
    [
        (m.NOT_RUNNING, Action.PAUSED, Action.STOPPED, ended("a", 9)),
        (m.NEXT_EXIT, Action.UPDATED, Action.EXITED, ended("a", 9)),
        (m.NEXT_EXIT, Action.RENAMED, Action.REMOVED, ended("a", 9)),
        (m.REMOVED, Action.EXITED, Action.REMOVED, ended("a", 9)),
    ],
)
async def test_what_comes_later_is_waited_for(
    world: World, condition: int, passed_over: Action, action: Action, then: Container
) -> None:
    world.containers.present["a"] = running("a")
    request = m.WaitRequest(container_id="a", condition=condition)  # type: ignore[arg-type]
    answer = asyncio.ensure_future(unary(world, "Wait", request, m.WaitResponse))
    await eventually(lambda: len(world.watchers) == 1)
    world.containers.tell(action, ended("another", 1))
    world.containers.tell(passed_over, running("a"))
    await world.is_well()
    assert not answer.done()
    world.containers.tell(action, then)
    assert (await answer).exit_code == 9
    assert (await answer).removed == (action is Action.REMOVED)
    assert world.watchers == []


async def test_a_container_that_is_removed_before_it_runs_is_an_error(world: World) -> None:
    world.containers.present["a"] = ended("a", 0)
    request = m.WaitRequest(container_id="a", condition=m.RUNNING)
    answer = asyncio.ensure_future(refusal(world, "Wait", request))
    await eventually(lambda: len(world.watchers) == 1)
    world.containers.tell(Action.REMOVED, ended("a", 0))
    assert await answer == (Status.NOT_FOUND, "container a was removed before that")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (m.WaitRequest(container_id="no"), Status.NOT_FOUND),
        (m.WaitRequest(container_id="a", condition=77), Status.INVALID_ARGUMENT),  # type: ignore[arg-type]
    ],
)
async def test_a_wait_that_makes_no_sense_is_refused(world: World, request_: Any, status: Status) -> None:
    world.containers.present["a"] = running("a")
    assert (await refusal(world, "Wait", request_))[0] is status


async def test_a_thousand_waits_at_once_are_all_answered_and_leave_nothing(world: World) -> None:
    world.containers.present["a"] = running("a")
    request = m.WaitRequest(container_id="a")
    answers = [asyncio.ensure_future(unary(world, "Wait", request, m.WaitResponse)) for _ in range(1000)]
    await eventually(lambda: len(world.watchers) == 100)  # what one connection may have open
    while not all(answer.done() for answer in answers):
        world.containers.tell(Action.EXITED, ended("a", 4))
        await asyncio.sleep(0)
    assert {(await answer).exit_code for answer in answers} == {4}
    assert world.watchers == []


async def test_resize_is_passed_on(world: World) -> None:
    from google.protobuf.empty_pb2 import Empty

    request = m.ResizeRequest(container_id="a", size=m.TerminalSize(columns=80, rows=24))
    await unary(world, "Resize", request, Empty)
    assert world.sessions.asked == [("resize", "a", 80, 24)]
