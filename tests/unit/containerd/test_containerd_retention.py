# SPDX-License-Identifier: Apache-2.0
"""The records in containerd's sandbox store: one for each task, none for anything else, and no harm where there is no store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from fake_containerd import FakeContainerd, refuse
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.containerd import events, rpc
from pycm.containerd.proto import (
    containers_pb2,
    events_pb2,
    sandbox_pb2,
    task_types_pb2,
    tasks_pb2,
    types_pb2,
)
from pycm.containerd.runtime import ContainerdRuntime
from pycm.errors import UnavailableError
from pycm.ports import RuntimeConnected, RuntimeLost, TaskIO, TaskRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

SECONDS = 60.0
GONE = refuse(Status.NOT_FOUND)
RUNNING, STOPPED, CREATED = task_types_pb2.RUNNING, task_types_pb2.STOPPED, task_types_pb2.CREATED


class Store:
    """A sandbox store; by *missing* it answers as one does whose record is not there."""

    def __init__(self, fake: FakeContainerd, missing: Any = GONE) -> None:
        self.records: dict[str, types_pb2.Sandbox] = {}
        self.missing = missing
        fake.answers[rpc.SANDBOX_CREATE] = self.create
        fake.answers[rpc.SANDBOX_DELETE] = self.delete
        fake.answers[rpc.SANDBOX_LIST] = self.list

    def create(self, request: Any) -> Any:
        if request.sandbox.sandbox_id in self.records:
            raise GRPCError(Status.ALREADY_EXISTS, "already exists")
        self.records[request.sandbox.sandbox_id] = request.sandbox
        return sandbox_pb2.StoreCreateResponse()

    def delete(self, request: Any) -> Any:
        if self.records.pop(request.sandbox_id, None) is None:
            return self.missing(request)
        return sandbox_pb2.StoreDeleteResponse()

    def list(self, request: Any) -> Any:
        assert list(request.filters) == ['labels."pycm.task"=="true"']
        ours = [record for record in self.records.values() if record.labels.get("pycm.task") == "true"]
        return sandbox_pb2.StoreListResponse(list=ours)

    def left(self, *ids: str) -> None:
        for container_id in ids:
            self.records[container_id] = types_pb2.Sandbox(
                sandbox_id=container_id, labels={"pycm.task": "true"}
            )


def request(container_id: str) -> TaskRequest:
    return TaskRequest(
        container_id, "i", {"ociVersion": "1"}, "io.containerd.runc.v2", TaskIO("", "/o", "/e")
    )


@pytest.fixture
async def runtime(fake: FakeContainerd, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ContainerdRuntime]:
    monkeypatch.setattr(events, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(events, "MARKER_PERIOD", 0.001)
    fake.answers[rpc.TASK_GET] = GONE

    def echo(request: Any) -> Any:
        fake.emit(events_pb2.Envelope(namespace="ns", topic=request.topic, event=request.event))
        return rpc.EVENT_PUBLISH.reply()

    fake.answers[rpc.EVENT_PUBLISH] = echo
    made = ContainerdRuntime(fake.path, namespace="ns")
    yield made
    await made.close()


@pytest.fixture
def store(fake: FakeContainerd) -> Store:
    return Store(fake)


def with_tasks(fake: FakeContainerd, tasks: Iterable[tuple[str, Any]]) -> None:
    """These run; those whose id begins with "other" are of somebody who names snapshots differently."""
    processes = [
        task_types_pb2.Process(id=container_id, pid=5, status=status) for container_id, status in tasks
    ]
    fake.answers[rpc.TASK_LIST] = lambda _: tasks_pb2.ListTasksResponse(tasks=processes)

    def record(request: Any) -> Any:
        ours = not request.id.startswith("other")
        found = containers_pb2.Container(
            id=request.id, snapshot_key=f"{request.id}-snapshot" if ours else request.id
        )
        found.runtime.name = "io.containerd.runc.v2"
        return containers_pb2.GetContainerResponse(container=found)

    fake.answers[rpc.CONTAINER_GET] = record


def track_tasks(fake: FakeContainerd) -> set[str]:
    """Ids of containers whose task runs since it was started."""
    live: set[str] = set()

    def start(request: Any) -> Any:
        live.add(request.container_id)
        return tasks_pb2.StartResponse(pid=5)

    def get(request: Any) -> Any:
        if request.container_id not in live:
            raise GRPCError(Status.NOT_FOUND, "no")
        return tasks_pb2.GetResponse(
            process=task_types_pb2.Process(id=request.container_id, pid=5, status=RUNNING)
        )

    fake.answers[rpc.TASK_START] = start
    fake.answers[rpc.TASK_GET] = get
    return live


async def session(runtime: ContainerdRuntime) -> Any:
    """The first event of a connection, after the records have been brought in line."""
    async with aclosing(runtime.events()) as stream:
        connected = await asyncio.wait_for(anext(stream), SECONDS)
        if runtime._alignment is not None:
            await runtime._alignment
        return connected


async def test_runtime_records_a_task_from_start_to_deletion(
    runtime: ContainerdRuntime, store: Store
) -> None:
    await runtime.start(request("c1"))
    (record,) = store.records.values()
    assert (record.sandbox_id, record.runtime.name, record.sandboxer, dict(record.labels)) == (
        "c1", "io.containerd.runc.v2", "shim", {"pycm.task": "true"},
    )  # fmt: skip
    await runtime.delete_task("c1")
    assert store.records == {}
    await runtime.start(request("c1"))
    await runtime.remove("c1")
    assert store.records == {}


@pytest.mark.parametrize("failing", [rpc.TASK_CREATE, rpc.TASK_START], ids=lambda call: call.name)
async def test_runtime_keeps_no_record_of_a_start_that_failed(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store, failing: Any
) -> None:
    fake.answers[failing] = refuse(Status.UNKNOWN, "broken")
    with pytest.raises(Exception, match="broken"):
        await runtime.start(request("c1"))
    assert store.records == {}


async def test_runtime_starts_a_container_whose_record_is_there_already(
    runtime: ContainerdRuntime, store: Store
) -> None:
    store.left("c1")
    await runtime.start(request("c1"))
    assert list(store.records) == ["c1"]


async def test_runtime_starts_a_container_without_record_when_the_store_fails(
    fake: FakeContainerd, runtime: ContainerdRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers[rpc.SANDBOX_CREATE] = refuse(Status.UNKNOWN, "no space left on device")
    await runtime.start(request("c1"))
    assert "container c1: no sandbox record: containerd's Store.Create failed: no space left" in caplog.text


@pytest.mark.parametrize(
    ("missing", "logged"),
    [
        (GONE, 0),
        (refuse(Status.UNKNOWN, 'failed to delete sandbox "c1": bucket not found'), 0),  # containerd 1.7
        (refuse(Status.UNKNOWN, "no space left on device"), 1),
    ],
)
async def test_runtime_deletes_a_task_without_record(
    fake: FakeContainerd,
    runtime: ContainerdRuntime,
    caplog: pytest.LogCaptureFixture,
    missing: Any,
    logged: int,
) -> None:
    Store(fake, missing)
    await runtime.delete_task("c1")
    assert len(caplog.records) == logged


async def test_runtime_deletion_fails_when_containerd_is_lost_before_the_record_goes(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    Store(fake, refuse(Status.UNAVAILABLE))
    with pytest.raises(UnavailableError):
        await runtime.delete_task("c1")


async def test_runtime_asks_a_containerd_without_store_once_per_connection(
    fake: FakeContainerd, runtime: ContainerdRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    """containerd 1.6; and an upgrade to 1.7 is noticed with the connection that follows it."""
    for call in (rpc.SANDBOX_CREATE, rpc.SANDBOX_DELETE, rpc.SANDBOX_LIST):
        fake.answers[call] = refuse(Status.UNIMPLEMENTED, "unknown service")
    assert isinstance(await session(runtime), RuntimeConnected)
    for _ in range(2):
        await runtime.start(request("c1"))
        await runtime.delete_task("c1")
    assert [name for name in fake.names() if name.startswith("Store.")] == ["Store.List"]
    assert caplog.records == []
    store = Store(fake)
    await session(runtime)
    await runtime.start(request("c1"))
    assert list(store.records) == ["c1"]


@pytest.mark.parametrize("first", [rpc.SANDBOX_CREATE, rpc.SANDBOX_DELETE], ids=lambda call: call.name)
async def test_runtime_notices_a_missing_store_before_the_first_session_too(
    fake: FakeContainerd, runtime: ContainerdRuntime, caplog: pytest.LogCaptureFixture, first: Any
) -> None:
    for call in (rpc.SANDBOX_CREATE, rpc.SANDBOX_DELETE):
        fake.answers[call] = refuse(Status.UNIMPLEMENTED, "unknown service")
    if first is rpc.SANDBOX_CREATE:
        await runtime.start(request("c1"))
    for _ in range(2):
        await runtime.delete_task("c1")
    assert [name for name in fake.names() if name.startswith("Store.")] == [first.name]
    assert caplog.records == []


async def test_session_records_adopted_tasks_and_leaves_those_of_others_alone(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store
) -> None:
    tasks = [
        ("kanto", RUNNING),
        ("known", RUNNING),
        ("ended", STOPPED),
        ("made", CREATED),
        ("other", RUNNING),
    ]
    with_tasks(fake, tasks)
    store.left("known")
    connected = await session(runtime)
    assert [task.id for task in connected.tasks] == [container_id for container_id, _ in tasks]
    assert list(store.records) == ["known", "kanto"]
    assert store.records["kanto"].runtime.name == "io.containerd.runc.v2"
    assert [message.id for name, message in fake.calls if name == "Containers.Get"] == ["kanto", "other"]


async def test_session_removes_records_without_task_and_the_shims_behind_them(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with_tasks(fake, [("known", STOPPED)])
    store.left("known", "crashed", "stuck")
    store.records["foreign"] = types_pb2.Sandbox(sandbox_id="foreign")

    def delete(request: Any) -> Any:
        return refuse(Status.UNKNOWN if request.container_id == "stuck" else Status.NOT_FOUND)(request)

    fake.answers[rpc.TASK_DELETE] = delete
    await session(runtime)
    assert list(store.records) == ["known", "stuck", "foreign"]
    deleted = [message.container_id for name, message in fake.calls if name == "Tasks.Delete"]
    assert sorted(deleted) == ["crashed", "stuck"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["container stuck"]


async def test_session_leaves_the_record_of_a_task_alone_that_containerd_did_not_list(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store
) -> None:
    """containerd leaves out of its list what a busy shim does not answer for."""
    store.left("c1")
    process = task_types_pb2.Process(id="c1", pid=5, status=STOPPED, exit_status=3)
    fake.answers[rpc.TASK_GET] = lambda _: tasks_pb2.GetResponse(process=process)
    await session(runtime)
    assert list(store.records) == ["c1"]
    assert "Tasks.Delete" not in fake.names()


async def test_session_goes_on_with_the_other_records_when_one_fails(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with_tasks(fake, [("a", RUNNING), ("b", RUNNING)])
    record = fake.answers[rpc.CONTAINER_GET]

    def get(request: Any) -> Any:
        return refuse(Status.UNKNOWN, "damaged")(request) if request.id == "a" else record(request)

    fake.answers[rpc.CONTAINER_GET] = get
    await session(runtime)
    assert list(store.records) == ["b"]
    assert "container a: sandbox record cannot be checked: containerd's Containers.Get failed" in caplog.text


async def test_session_leaves_the_record_of_a_start_under_way_alone(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store
) -> None:
    """Also of one that ends while the session has its list of tasks, from before the task, in hand."""
    live = track_tasks(fake)
    reached, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> Any:
        reached.set()
        await go.wait()
        return tasks_pb2.CreateTaskResponse(pid=5)

    fake.answers[rpc.TASK_CREATE] = slow
    start = asyncio.create_task(runtime.start(request("c1")))
    await reached.wait()
    while "c1" not in store.records:
        await asyncio.sleep(0.001)

    async def listed(_: Any) -> Any:
        go.set()
        await start
        return tasks_pb2.ListTasksResponse()

    fake.answers[rpc.TASK_LIST] = listed
    assert isinstance(await session(runtime), RuntimeConnected)
    assert list(store.records) == ["c1"]
    live.clear()
    await session(runtime)  # and it is left over once nobody starts it
    assert store.records == {}


async def test_session_leaves_the_record_of_a_start_after_the_list_alone(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store
) -> None:
    """After a boot: containers start again while the records of the last one are being removed."""
    store.left("c1", "c2")
    track_tasks(fake)
    removing, go = asyncio.Event(), asyncio.Event()
    deleted = []

    async def slow(request: Any) -> Any:
        deleted.append(request.container_id)
        removing.set()
        await go.wait()
        raise GRPCError(Status.NOT_FOUND, "no")

    fake.answers[rpc.TASK_DELETE] = slow
    async with aclosing(runtime.events()) as stream:
        assert isinstance(await asyncio.wait_for(anext(stream), SECONDS), RuntimeConnected)
        await removing.wait()
        (other,) = {"c1", "c2"} - set(deleted)
        await runtime.start(request(other))
        go.set()
        assert runtime._alignment
        await runtime._alignment
    assert (list(store.records), len(deleted)) == ([other], 1)
    assert not runtime._starting


async def test_runtime_ends_the_alignment_of_records_when_it_closes(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store
) -> None:
    store.left("c1")
    reached = asyncio.Event()

    async def stuck(_: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    fake.answers[rpc.TASK_DELETE] = stuck
    async with aclosing(runtime.events()) as stream:
        await asyncio.wait_for(anext(stream), SECONDS)
        await reached.wait()
    await runtime.close()
    assert runtime._alignment
    assert runtime._alignment.cancelled()
    assert list(store.records) == ["c1"]


async def test_session_leaves_records_to_the_next_one_when_containerd_is_lost(
    fake: FakeContainerd, runtime: ContainerdRuntime, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.left("crashed")
    fake.answers[rpc.TASK_DELETE] = refuse(Status.UNAVAILABLE)
    await session(runtime)
    assert (list(store.records), caplog.records) == (["crashed"], [])
    fake.answers[rpc.TASK_DELETE] = GONE
    await session(runtime)
    assert store.records == {}


@pytest.mark.parametrize(
    ("status", "first"), [(Status.UNKNOWN, RuntimeConnected), (Status.UNAVAILABLE, RuntimeLost)]
)
async def test_session_works_with_a_broken_store_and_ends_with_a_lost_one(
    fake: FakeContainerd,
    runtime: ContainerdRuntime,
    caplog: pytest.LogCaptureFixture,
    status: Status,
    first: type,
) -> None:
    fake.answers[rpc.SANDBOX_LIST] = refuse(status, "no runtime bucket")
    assert isinstance(await session(runtime), first)
    assert len(caplog.records) == (first is RuntimeConnected)
