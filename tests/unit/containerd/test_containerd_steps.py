# SPDX-License-Identifier: Apache-2.0
"""What the runtime asks of containerd, step by step, when steps fail: nothing stays, nothing of others goes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from fake_containerd import FakeContainerd, refuse
from google.protobuf.any_pb2 import Any as AnyMessage
from grpclib.const import Status

from pycm.containerd import rpc
from pycm.containerd.proto import (
    containers_pb2,
    content_pb2,
    images_pb2,
    task_types_pb2,
    tasks_pb2,
)
from pycm.containerd.runtime import ContainerdRuntime
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, UnavailableError
from pycm.ports import ExecRequest, TaskIO, TaskRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REQUEST = TaskRequest(
    "c1", "i", {"ociVersion": "1"}, "io.containerd.runc.v2", TaskIO("", "/o", "/e"), systemd_cgroup=True
)
UNDO = ["Tasks.Get", "Tasks.Delete", "Containers.Delete", "Store.Delete"]
GONE = refuse(Status.NOT_FOUND)


@pytest.fixture
async def runtime(fake: FakeContainerd) -> AsyncIterator[ContainerdRuntime]:
    fake.answers[rpc.TASK_GET] = GONE
    made = ContainerdRuntime(fake.path, namespace="ns")
    yield made
    await made.close()


def task_in(status: int) -> Any:
    process = task_types_pb2.Process(id="c1", pid=5, status=status)
    return lambda _: tasks_pb2.GetResponse(process=process)


async def test_a_start_sends_what_kanto_would_have_sent(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    fake.answers[rpc.TASK_START] = lambda _: tasks_pb2.StartResponse(pid=77)
    assert await runtime.start(REQUEST) == 77
    assert fake.names() == [
        "Tasks.Get",
        "Snapshots.Mounts",
        "Containers.Create",
        "Tasks.Create",
        "Store.Create",
        "Tasks.Start",
    ]
    record = fake.calls[2][1].container
    assert (record.id, record.snapshotter, record.snapshot_key) == ("c1", "overlayfs", "c1-snapshot")
    assert (record.runtime.name, record.image, dict(record.labels)) == ("io.containerd.runc.v2", "", {})
    assert record.runtime.options.type_url == "containerd.runc.v1.Options"
    assert record.spec.value == b'{"ociVersion": "1"}'
    task = fake.calls[3][1]
    assert (task.stdin, task.stdout, task.stderr, task.terminal) == ("", "/o", "/e", False)
    leased = [item.get("containerd-lease") for item in fake.metadata[2:]]
    assert leased == ["kanto-cm.lease", "kanto-cm.lease", None, "kanto-cm.lease"]


@pytest.mark.parametrize(
    "failing", [rpc.CONTAINER_CREATE, rpc.TASK_CREATE, rpc.TASK_START], ids=lambda call: call.name
)
async def test_a_step_that_fails_undoes_the_steps_before(
    fake: FakeContainerd, runtime: ContainerdRuntime, failing: Any
) -> None:
    fake.answers[failing] = refuse(Status.UNKNOWN, "broken")
    with pytest.raises(OperationFailedError, match="broken"):
        await runtime.start(REQUEST)
    after = fake.names()[fake.names().index(failing.name) + 1 :]
    assert [name for name in after if name != "Store.Create"] == (
        [] if failing is rpc.CONTAINER_CREATE else UNDO
    )


async def test_a_task_that_was_made_but_not_started_is_killed_and_deleted(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    def made(_: Any) -> Any:
        fake.answers[rpc.TASK_GET] = task_in(task_types_pb2.CREATED)
        return tasks_pb2.CreateTaskResponse(pid=5)

    fake.answers[rpc.TASK_CREATE] = made
    fake.answers[rpc.TASK_START] = refuse(Status.UNKNOWN, "runc start failed")
    with pytest.raises(OperationFailedError, match="runc start failed"):
        await runtime.start(REQUEST)
    end = ["Tasks.Get", "Tasks.Kill", "Tasks.Resume", "Tasks.Wait", *UNDO[1:]]
    assert fake.names()[-len(end) :] == end


async def test_a_failing_clean_up_hides_nothing_and_is_logged(
    fake: FakeContainerd, runtime: ContainerdRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers[rpc.TASK_START] = refuse(Status.UNKNOWN, "the reason")
    fake.answers[rpc.CONTAINER_DELETE] = refuse(Status.UNKNOWN, "clumsy")
    with pytest.raises(OperationFailedError, match="the reason"):
        await runtime.start(REQUEST)
    assert [record.levelno for record in caplog.records if "clumsy" in record.getMessage()] == [
        logging.WARNING
    ]


async def test_a_start_that_is_cancelled_cleans_up_too(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    reached = asyncio.Event()

    async def stuck(_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    fake.answers[rpc.TASK_CREATE] = stuck
    start = asyncio.create_task(runtime.start(REQUEST))
    await reached.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert fake.names()[-len(UNDO) :] == UNDO


async def test_a_stale_record_is_replaced_once(fake: FakeContainerd, runtime: ContainerdRuntime) -> None:
    fake.answers[rpc.CONTAINER_CREATE] = refuse(Status.ALREADY_EXISTS)
    with pytest.raises(ConflictError):
        await runtime.start(REQUEST)
    assert fake.names()[2:] == ["Containers.Create", *UNDO[1:], "Containers.Create"]


@pytest.mark.parametrize("status", [task_types_pb2.RUNNING, task_types_pb2.PAUSED, task_types_pb2.UNKNOWN])
async def test_a_live_task_is_never_touched_by_a_start(
    fake: FakeContainerd, runtime: ContainerdRuntime, status: int
) -> None:
    fake.answers[rpc.TASK_GET] = task_in(status)
    with pytest.raises(ConflictError, match=r"container c1 is \w+ in containerd \(pid 5\)"):
        await runtime.start(REQUEST)
    assert fake.names() == ["Tasks.Get"]


async def test_removing_what_is_gone_is_no_error_but_a_lost_containerd_is(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    for call in (rpc.TASK_DELETE, rpc.CONTAINER_DELETE, rpc.SNAPSHOT_REMOVE):
        fake.answers[call] = GONE
    await runtime.delete_task("c1")
    await runtime.remove("c1")
    fake.answers[rpc.SNAPSHOT_REMOVE] = refuse(Status.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        await runtime.remove("c1")


async def test_content_that_is_not_what_its_digest_says_is_refused(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    image = images_pb2.Image(name="r/i:1")
    image.target.digest, image.target.size = "sha256:" + "0" * 64, 2
    fake.answers[rpc.IMAGE_GET] = lambda _: images_pb2.GetImageResponse(image=image)
    fake.answers[rpc.CONTENT_READ] = lambda _: [content_pb2.ReadContentResponse(data=b"{}")]
    with pytest.raises(
        OperationFailedError, match=r'image "r/i:1" cannot be used: content sha256:000.* is damaged'
    ):
        await runtime.image("r/i:1")
    image.target.size = 1 << 40
    with pytest.raises(OperationFailedError, match=r"has 1099511627776 bytes, more than"):
        await runtime.image("r/i:1")


async def test_a_long_reference_is_shortened_in_the_message(
    fake: FakeContainerd, runtime: ContainerdRuntime
) -> None:
    fake.answers[rpc.IMAGE_GET] = GONE
    with pytest.raises(NotFoundError) as caught:
        await runtime.image("x/" + "y" * 1_000_000 + ":1")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("spec", [b"", b"{", b"[1]", b'{"process": 1}', b"\xff", b"[" * 100_000])
async def test_exec_refuses_a_record_without_valid_spec(
    fake: FakeContainerd, runtime: ContainerdRuntime, spec: bytes
) -> None:
    record = containers_pb2.Container(spec=AnyMessage(value=spec))
    fake.answers[rpc.CONTAINER_GET] = lambda _: containers_pb2.GetContainerResponse(container=record)
    with pytest.raises(OperationFailedError, match="record of container c1 has no valid runtime spec"):
        await runtime.exec(ExecRequest("c1", ("true",), TaskIO("", "/o", "/e")))
