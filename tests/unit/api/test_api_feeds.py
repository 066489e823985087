# SPDX-License-Identifier: Apache-2.0
"""Feeds of the JSON API: logs, events, stats, the end of a wait, the progress of a pull."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pycm.api.server import feeds, http, routes
from pycm.errors import OperationFailedError
from pycm.model.container import Container, State
from pycm.model.measurements import CPU_UTILIZATION, MEMORY_USED
from pycm.model.states import Status
from pycm.ports import Action, ImageInfo, Measurement, PullProgress, PullStep
from support.api_world import WAIT, World, eventually, running
from support.json_peer import JsonPeer, connected

NAME = "registry.test/demo/app:1.0"


def ended(identifier: str, code: int) -> Container:
    return running(identifier, state=State(status=Status.EXITED, exited=True, exit_code=code))


@contextlib.asynccontextmanager
async def feed(world: World, method: str, target: str, body: Any = None) -> AsyncIterator[JsonPeer]:
    """A client that has the head of the answer."""
    async with connected(world.path) as peer:
        await peer.ask(method, target, body)
        head = await peer.head()
        assert head.status_code == 200
        assert (b"content-type", b"application/jsonl") in head.headers
        yield peer


# ── logs ──


async def test_logs_come_as_the_texts_of_kantos_call(world: World, peer: JsonPeer) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["one", "two\n<>", "three"]
    assert (await peer.call("GET", "/v1/containers/a/logs?tail=-1")).lines == [
        {"log": "one"}, {"log": "two\n<>"}, {"log": "three"},
    ]  # fmt: skip
    assert (await peer.call("GET", "/v1/containers/a/logs?tail=1")).lines == [{"log": "three"}]


async def test_log_without_text_is_an_empty_feed(world: World, peer: JsonPeer) -> None:
    world.containers.present["a"] = running("a")
    assert (await peer.call("GET", "/v1/containers/a/logs")).body == b""


async def test_log_that_cannot_be_read_is_a_plain_problem(world: World, peer: JsonPeer) -> None:
    world.containers.present["a"] = running("a")
    world.logs.error = OperationFailedError("no log")
    assert (await peer.call("GET", "/v1/containers/a/logs")).code == "operation-failed"
    assert (await peer.call("GET", "/v1/containers/b/logs")).code == "not-found"
    created = running("c", state=State(status=Status.CREATED))
    world.containers.present["c"] = created
    assert (await peer.call("GET", "/v1/containers/c/logs")).code == "conflict"


async def test_slow_reader_of_logs_delays_the_reading_and_is_not_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALLED", 0.02)
    world.containers.present["a"] = running("a")
    world.logs.texts = ["x" * 100_000] * 100
    async with feed(world, "GET", "/v1/containers/a/logs?tail=-1") as peer:
        await eventually(lambda: world.logs.taken > 1)
        await asyncio.sleep(0.1)
        assert world.logs.taken < 60
        assert len((await _rest(peer)).split(b"\n")) == 101
    await asyncio.wait_for(world.logs.closed.wait(), WAIT)


async def _rest(peer: JsonPeer) -> bytes:
    body = b""
    while hasattr(event := await peer.event(), "data"):
        body += event.data
    return body


async def test_logs_are_closed_when_their_client_leaves(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["x" * 100_000] * 100
    async with feed(world, "GET", "/v1/containers/a/logs?tail=-1"):
        await eventually(lambda: world.logs.taken > 1)
    await asyncio.wait_for(world.logs.closed.wait(), WAIT)
    assert world.logs.taken < 100


# ── events ──


async def test_event_says_what_happened_to_which_container(world: World) -> None:
    async with feed(world, "GET", "/v1/events") as peer:
        world.containers.tell(Action.EXITED, ended("a", 7))
        event = await peer.line()
        assert event.pop("time").endswith("Z")
        assert event == {
            "action": "exited", "container_id": "a", "container_name": "name of a", "image": "x:1", "status": "Exited",
            "exit_code": 7, "error": "",
        }  # fmt: skip
    await eventually(lambda: world.watchers == [])


async def test_events_are_filtered_by_container_and_action(world: World) -> None:
    async with feed(world, "GET", "/v1/events?id=b&action=running&action=exited") as peer:
        world.containers.tell(Action.RUNNING, running("a"))
        world.containers.tell(Action.PAUSED, running("b"))
        world.containers.tell(Action.RUNNING, running("b"))
        event = await peer.line()
        assert (event["action"], event["container_id"]) == ("running", "b")


async def test_events_of_an_unknown_action_are_refused_with_the_known_ones(peer: JsonPeer) -> None:
    answer = await peer.call("GET", "/v1/events?action=burst")
    assert answer.code == "invalid-input"
    assert answer.value["detail"].startswith("action: 'burst' is not one of created, running,")


async def test_events_for_a_client_that_is_too_slow_end_with_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MOST_EVENTS", 10)
    async with feed(world, "GET", "/v1/events") as peer:
        for _ in range(11):  # faster than one can be sent
            world.containers.tell(Action.UPDATED, running("a"))
        problem = (await peer.line())["problem"]
        assert (problem["code"], problem["status"]) == ("too-slow", 429)
        assert "more than 10 events were waiting" in problem["detail"]
        assert await _rest(peer) == b""
    assert world.watchers == []


async def test_ten_waiting_events_are_not_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_EVENTS", 10)
    async with feed(world, "GET", "/v1/events") as peer:
        for _ in range(10):
            world.containers.tell(Action.UPDATED, running("a"))
        assert [(await peer.line())["action"] for _ in range(10)] == ["updated"] * 10


async def test_events_end_for_a_client_that_stops_reading(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALLED", 0.05)
    fat = running("a", state=State(status=Status.EXITED, error="x" * 1_000_000))
    async with feed(world, "GET", "/v1/events"):
        for _ in range(8):  # more than the kernel keeps
            world.containers.tell(Action.EXITED, fat)
        await eventually(lambda: world.watchers == [])
        monkeypatch.setattr(http, "STALLED", WAIT)
    await world.is_well()


@pytest.mark.parametrize("target", ["/v1/events", f"/v1/stats?interval_ms={routes.INTERVALS[1]}"])
async def test_feeds_have_a_bound_and_room_when_one_ends(
    world: World, peer: JsonPeer, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(feeds, "MOST_CLIENTS", 1)
    async with feed(world, "GET", target):
        assert (await peer.call("GET", target)).code == "busy"
    await eventually(lambda: not any(one.calls for one in world.server._grpc.clients.connections))  # type: ignore[union-attr]
    async with feed(world, "GET", target):
        await world.is_well()


# ── stats ──


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test ask for a sample each millisecond."""
    values = tuple(one._replace(low=1) if one.name == "interval_ms" else one for one in routes.STATS)
    table = tuple(
        one._replace(query=values) if one.handler == "watch_stats" else one for one in routes.ROUTES
    )
    monkeypatch.setattr(routes, "ROUTES", table)


async def test_stats_are_those_of_the_containers_that_run(
    world: World, peer: JsonPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    world.containers.present = {"a": running("a"), "b": ended("b", 1), "c": running("c")}
    world.metrics.figures["a"] = [Measurement(CPU_UTILIZATION, 12.5), Measurement(MEMORY_USED, 1024)]
    world.metrics.figures["b"] = [Measurement(MEMORY_USED, 1)]
    samples = (await peer.call("GET", "/v1/stats?interval_ms=1&samples=2")).lines
    assert [sorted(sample) for sample in samples] == [["containers", "time"]] * 2
    figures = {
        "container_id": "a",
        "container_name": "name of a",
        "cpu_percent": 12.5,
        "memory_used_bytes": 1024,
    }
    assert [sample["containers"] for sample in samples] == [[figures]] * 2
    # the first is what the others are compared with
    assert [meter.samples for meter in world.metrics.meters] == [3]


async def test_nothing_is_measured_when_nobody_asks_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    world.containers.present = {"a": running("a")}
    async with feed(world, "GET", "/v1/stats?interval_ms=1") as peer:
        await peer.line()
    await world.is_well()
    (meter,) = world.metrics.meters
    before = meter.samples
    await asyncio.sleep(0.02)
    assert meter.samples <= before + 1


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("interval_ms=499", "invalid-input", "interval_ms: 499 is not between"),
        ("id=no", "not-found", "no such container with id = no exists"),
        ("&".join(["id=x"] * 1001), "invalid-input", "id: 1001 values are more than the 1000 allowed"),
    ],
)
async def test_stats_that_are_not_possible_are_refused(
    peer: JsonPeer, query: str, code: str, text: str
) -> None:
    answer = await peer.call("GET", f"/v1/stats?{query}")
    assert answer.code == code
    assert text in answer.value["detail"]


# ── wait ──


@pytest.mark.parametrize(
    ("condition", "now", "code"), [("stopped", ended("a", 3), 3), ("running", running("a"), 0)]
)
async def test_wait_is_answered_at_once_if_the_condition_is_met(
    world: World, peer: JsonPeer, condition: str, now: Container, code: int
) -> None:
    world.containers.present["a"] = now
    answer = (await peer.call("GET", f"/v1/containers/a/wait?for={condition}")).value
    assert answer == {"status": now.state.status.word, "exit_code": code, "error": "", "removed": False}
    assert world.watchers == []


@pytest.mark.parametrize(
    ("condition", "passed_over", "action"),
    [
        ("stopped", Action.PAUSED, Action.STOPPED),
        ("next-exit", Action.UPDATED, Action.EXITED),
        ("next-exit", Action.RENAMED, Action.REMOVED),
        ("removed", Action.EXITED, Action.REMOVED),
    ],
)
async def test_wait_lasts_until_the_condition_is_met(
    world: World, peer: JsonPeer, condition: str, passed_over: Action, action: Action
) -> None:
    world.containers.present["a"] = running("a")
    answer = asyncio.ensure_future(peer.call("GET", f"/v1/containers/a/wait?for={condition}"))
    await eventually(lambda: len(world.watchers) == 1)
    world.containers.tell(action, ended("another", 1))
    world.containers.tell(passed_over, running("a"))
    await world.is_well()
    assert not answer.done()
    world.containers.tell(action, ended("a", 9))
    found = (await answer).value
    assert (found["exit_code"], found["removed"]) == (9, action is Action.REMOVED)
    assert world.watchers == []


async def test_wait_for_a_container_that_is_removed_before_is_not_found(world: World, peer: JsonPeer) -> None:
    world.containers.present["a"] = ended("a", 0)
    answer = asyncio.ensure_future(peer.call("GET", "/v1/containers/a/wait?for=running"))
    await eventually(lambda: len(world.watchers) == 1)
    world.containers.tell(Action.REMOVED, ended("a", 0))
    assert (await answer).value["detail"] == "container a was removed before that"
    assert (await answer).code == "not-found"


async def test_wait_ends_when_its_time_is_up(world: World, peer: JsonPeer) -> None:
    world.containers.present["a"] = running("a")
    answer = await peer.call("GET", "/v1/containers/a/wait?within=0.02")
    assert (answer.status, answer.code) == (504, "timeout")
    assert answer.value["detail"] == "container a did not become stopped within 0.02 s"
    assert world.watchers == []


async def test_wait_ends_with_its_client(world: World) -> None:
    world.containers.present["a"] = running("a")
    async with connected(world.path) as peer:
        await peer.ask("GET", "/v1/containers/a/wait")
        await eventually(lambda: len(world.watchers) == 1)
    await eventually(lambda: world.watchers == [])


async def test_wait_for_an_unknown_container_is_not_found(peer: JsonPeer) -> None:
    assert (await peer.call("GET", "/v1/containers/no/wait")).code == "not-found"


# ── pull ──


async def test_pull_tells_its_progress_and_ends_with_the_image(world: World, peer: JsonPeer) -> None:
    world.images.steps = [
        PullProgress(NAME, PullStep.RESOLVING),
        PullProgress(NAME, PullStep.DOWNLOADING, 5, 10),
        PullProgress(NAME, PullStep.DONE),
    ]
    lines = (await peer.call("POST", "/v1/images/pull", {"reference": NAME})).lines
    assert [line["step"] for line in lines][-1] == "done"
    assert [(line["done"], line["total"]) for line in lines if line["step"] == "downloading"] in (
        [(5, 10)],
        [],
    )
    assert lines[-1]["image"]["reference"] == NAME
    assert not any("image" in line for line in lines[:-1])


async def test_pull_that_fails_ends_with_its_problem(world: World, peer: JsonPeer) -> None:
    world.images.fail = OperationFailedError("no room")
    lines = (await peer.call("POST", "/v1/images/pull", {"reference": NAME})).lines
    problem = lines[-1]["problem"]
    assert (problem["code"], problem["detail"]) == ("operation-failed", "no room")
    assert (await peer.call("GET", "/v1/version")).status == 200


async def test_bug_in_a_feed_ends_it_with_a_problem_and_a_traceback_in_the_log(
    world: World, peer: JsonPeer, caplog: pytest.LogCaptureFixture
) -> None:
    world.images.fail = ZeroDivisionError("secret")  # type: ignore[assignment]
    answer = await peer.call("POST", "/v1/images/pull", {"reference": NAME})
    assert answer.lines[-1]["problem"]["code"] == "internal"
    assert b"secret" not in answer.body
    assert "Traceback" in caplog.text


async def test_pull_is_given_up_when_its_client_leaves(world: World) -> None:
    given_up, begun = asyncio.Event(), asyncio.Event()

    async def endless(_reference: str, _progress: Any) -> ImageInfo:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    world.images.pull = endless  # type: ignore[method-assign]
    async with feed(world, "POST", "/v1/images/pull", {"reference": NAME}):
        await asyncio.wait_for(begun.wait(), WAIT)
    await asyncio.wait_for(given_up.wait(), WAIT)
