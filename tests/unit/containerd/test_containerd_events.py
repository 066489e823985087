# SPDX-License-Identifier: Apache-2.0
"""The endless event stream: order of subscribing and listing, losses, what is passed on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from fake_containerd import FakeContainerd, refuse
from google.protobuf.any_pb2 import Any as AnyMessage
from grpclib.const import Status

from pycm.containerd import events, rpc
from pycm.containerd.proto import (
    events_pb2,
    leases_pb2,
    task_events_pb2,
    task_types_pb2,
    tasks_pb2,
    version_pb2,
)
from pycm.containerd.runtime import ContainerdRuntime
from pycm.ports import RuntimeConnected, RuntimeLost, TaskExited, TaskOOM, TaskStatus
from support.closing_listener import closing_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECONDS = 60.0


def envelope(topic: str, message: Any, namespace: str = "ns") -> events_pb2.Envelope:
    return events_pb2.Envelope(
        namespace=namespace, topic=topic, event=AnyMessage(value=message.SerializeToString())
    )


def exit_event(container_id: str, code: int = 0, **more: Any) -> events_pb2.Envelope:
    message = task_events_pb2.TaskExit(container_id=container_id, id=container_id, pid=1, exit_status=code)
    return envelope("/tasks/exit", message, **more)


@pytest.fixture
async def runtime(fake: FakeContainerd, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ContainerdRuntime]:
    monkeypatch.setattr(events, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(events, "LAST_DELAY", 0.01)
    monkeypatch.setattr(events, "MARKER_PERIOD", 0.001)
    fake.answers[rpc.EVENT_PUBLISH] = lambda request: echo(fake, request)
    made = ContainerdRuntime(fake.path, namespace="ns")
    yield made
    await made.close()


def echo(fake: FakeContainerd, request: Any) -> Any:
    fake.emit(events_pb2.Envelope(namespace="ns", topic=request.topic, event=request.event))
    return rpc.EVENT_PUBLISH.reply()


async def until_connected(stream: AsyncIterator[Any]) -> list[RuntimeLost]:
    losses = []
    async for event in stream:
        if isinstance(event, RuntimeConnected):
            break
        losses.append(event)
    return losses


async def take(stream: AsyncIterator[Any], count: int) -> list[Any]:
    return [await asyncio.wait_for(anext(stream), SECONDS) for _ in range(count)]


async def test_tasks_are_listed_only_once_the_subscription_counts(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    async def late(_: Any) -> None:
        while fake.names().count("Events.Publish") < 3:
            await asyncio.sleep(0)
        fake.calls.append(("subscribed", None))

    fake.subscribe = late
    process = task_types_pb2.Process(id="c1", pid=5, status=task_types_pb2.STOPPED, exit_status=9)
    fake.answers[rpc.TASK_LIST] = lambda _: tasks_pb2.ListTasksResponse(tasks=[process])
    async with aclosing(runtime.events()) as stream:
        (connected,) = await take(stream, 1)
    (task,) = connected.tasks
    assert (task.id, task.pid, task.status, task.exit.code) == ("c1", 5, TaskStatus.STOPPED, 9)
    assert fake.names().index("subscribed") < fake.names().index("Tasks.List")


async def test_what_came_before_the_marker_follows_the_list(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    async def busy(queue: Any) -> None:
        queue.put_nowait(exit_event("early", 3))

    fake.subscribe = busy
    async with aclosing(runtime.events()) as stream:
        connected, early = await take(stream, 2)
    assert isinstance(connected, RuntimeConnected)
    assert (early.id, early.exit.code) == ("early", 3)


async def test_early_events_are_bounded_and_the_oldest_go(
    fake: FakeContainerd, runtime: ContainerdRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EARLY_LIMIT", 2)

    async def busy(queue: Any) -> None:
        for number in range(5):
            queue.put_nowait(exit_event(f"e{number}"))

    fake.subscribe = busy
    async with aclosing(runtime.events()) as stream:
        _, *early = await take(stream, 3)
    assert [event.id for event in early] == ["e3", "e4"]


async def test_event_stream_yields_only_exits_of_first_processes_and_ooms_of_its_namespace(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    async with aclosing(runtime.events()) as stream:
        await take(stream, 1)
        fake.emit(exit_event("foreign", namespace="other"))
        fake.emit(envelope("/tasks/exit", task_events_pb2.TaskExit(container_id="c1", id="exec-1")))
        fake.emit(envelope("/tasks/start", task_events_pb2.TaskOOM(container_id="c1")))
        garbage = AnyMessage(value=b"\xff\xff\xff")
        fake.emit(events_pb2.Envelope(namespace="ns", topic="/tasks/exit", event=garbage))
        fake.emit(envelope("/tasks/oom", task_events_pb2.TaskOOM(container_id="c1")))
        fake.emit(exit_event("c1", 137))
        oom, exited = await take(stream, 2)
    assert oom == TaskOOM("c1")
    assert isinstance(exited, TaskExited)
    assert (exited.id, exited.exit.code) == ("c1", 137)


async def test_event_stream_reports_a_lasting_loss_once_for_each_reason(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    tries = iter([Status.UNAVAILABLE, Status.UNAVAILABLE, Status.UNKNOWN, Status.UNKNOWN, Status.UNAVAILABLE])

    def sick(request: Any) -> Any:
        status = next(tries, None)
        return refuse(status, str(status))(request) if status else rpc.LEASE_LIST.reply()

    fake.answers[rpc.LEASE_LIST] = sick
    async with aclosing(runtime.events()) as stream:
        *losses, connected = await take(stream, 3)
    assert [loss.reason.rpartition(".")[2] for loss in losses] == ["UNAVAILABLE", "UNKNOWN"]
    assert isinstance(connected, RuntimeConnected)
    assert fake.names().count("Leases.List") == 6


async def test_event_stream_waits_for_containerd_and_gives_its_version(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    answers = [refuse(Status.UNAVAILABLE, "starting")] * 3
    fake.answers[rpc.VERSION] = lambda request: (
        answers.pop()(request) if answers else version_pb2.VersionResponse(version="1.6.20")
    )
    async with aclosing(runtime.events()) as stream:
        lost, connected = await take(stream, 2)
    assert "starting" in lost.reason
    assert connected.version == "1.6.20"
    assert fake.names()[3:8] == [
        "Version.Version",
        "Namespaces.Create",
        "Leases.List",
        "Leases.Create",
        "Leases.Delete",
    ]
    assert [request.id for _, request in fake.calls[6:8]] == ["kanto-cm.lease", "kanto-cm.lease.unpack"]


async def test_session_keeps_the_lease_of_an_unpacking_that_is_under_way(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    async with runtime._images._unpacking, aclosing(runtime.events()) as stream:
        await take(stream, 1)
    assert "Leases.Delete" not in fake.names()


EXPIRING = leases_pb2.Lease(id="kanto-cm.lease", labels={"containerd.io/gc.expire": "2020"})


@pytest.mark.parametrize(
    ("leases", "expected"),
    [
        ([], ["Leases.List", "Leases.Create"]),
        ([EXPIRING], ["Leases.List", "Leases.Delete", "Leases.Create"]),
        (
            [leases_pb2.Lease(id="kanto-cm.lease")],
            ["Leases.List", "Leases.ListResources", "Leases.DeleteResource"],
        ),
    ],
)
async def test_session_takes_the_lease_over_as_kanto_does(
    fake: FakeContainerd, runtime: ContainerdRuntime, leases: list[Any], expected: list[str]
) -> None:
    resources = [
        leases_pb2.Resource(id="a", type="content"),
        leases_pb2.Resource(id="b", type="snapshots/overlayfs"),
    ]
    fake.answers[rpc.NAMESPACE_CREATE] = refuse(Status.ALREADY_EXISTS)
    fake.answers[rpc.LEASE_LIST] = lambda _: leases_pb2.ListResponse(leases=leases)
    fake.answers[rpc.LEASE_RESOURCES] = lambda _: leases_pb2.ListResourcesResponse(resources=resources)
    async with aclosing(runtime.events()) as stream:
        await take(stream, 1)
    assert fake.names()[2 : 2 + len(expected)] == expected
    dropped = [request.resource.id for name, request in fake.calls if name == "Leases.DeleteResource"]
    assert dropped in ([], ["a"])


@pytest.mark.parametrize("error", [AttributeError("a bug"), KeyError(), RuntimeError("StopIteration")])
async def test_event_stream_retries_after_errors_of_any_class(
    fake: FakeContainerd, runtime: ContainerdRuntime, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    errors = [error, error]

    async def buggy() -> tuple[Any, ...]:
        if errors:
            raise errors.pop()
        return ()

    stream = events.EventStream(runtime._client, runtime._prepare_session, buggy)
    async with aclosing(stream.events()) as following:
        lost, connected = await take(following, 2)
        fake.emit(exit_event("c1"))
        (exited,) = await take(following, 1)
    assert (lost, connected, exited.id) == (
        RuntimeLost(str(error) or repr(error)),
        RuntimeConnected(()),
        "c1",
    )
    assert [record.exc_info is not None for record in caplog.records] == [True], "once, with its traceback"


async def test_event_stream_retries_while_connections_close_at_once(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    """A socket unit whose containerd does not start: before the first session, and after one."""
    async with aclosing(runtime.events()) as stream:
        for _ in range(2):
            await fake.stop()
            with closing_listener(fake.path) as listener:
                (lost,) = await take(stream, 1)
                assert isinstance(lost, RuntimeLost)
                following = asyncio.create_task(until_connected(stream))
                while listener.closed < 5:
                    await asyncio.sleep(0.001)
            await fake.start()
            assert len(await asyncio.wait_for(following, SECONDS)) < 4, (
                "a loss is reported once for each reason"
            )


async def test_a_lost_and_found_containerd_is_subscribed_and_listed_again(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    async with aclosing(runtime.events()) as stream:
        await take(stream, 1)
        await fake.stop()
        (lost,) = await take(stream, 1)
        await fake.start()
        fake.subscribers.clear()
        (again,) = await take(stream, 1)
        fake.emit(exit_event("c1"))
        (exited,) = await take(stream, 1)
    assert isinstance(lost, RuntimeLost)
    assert isinstance(again, RuntimeConnected)
    assert exited.id == "c1"


async def test_a_stream_that_containerd_ends_politely_is_a_loss_too(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    async with aclosing(runtime.events()) as stream:
        await take(stream, 1)
        fake.emit(None)
        lost, again = await take(stream, 2)
    assert isinstance(lost, RuntimeLost)
    assert "ended the event stream" in lost.reason
    assert isinstance(again, RuntimeConnected)


async def test_a_subscription_that_never_counts_is_a_loss(
    fake: FakeContainerd, runtime: ContainerdRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "CONFIRMATION", 0.05)
    fake.answers[rpc.EVENT_PUBLISH] = refuse(Status.PERMISSION_DENIED)
    async with aclosing(runtime.events()) as stream:
        (lost,) = await take(stream, 1)
    assert isinstance(lost, RuntimeLost)
    assert "did not confirm the event subscription" in lost.reason


async def test_no_beacon_and_no_stream_stay_behind_a_closed_stream(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    before = asyncio.all_tasks()
    async with aclosing(runtime.events()) as stream:
        await take(stream, 1)
    published = fake.names().count("Events.Publish")
    await runtime.tasks()
    assert fake.names().count("Events.Publish") == published
    assert not [task for task in asyncio.all_tasks() - before if "EventStream" in repr(task)]
