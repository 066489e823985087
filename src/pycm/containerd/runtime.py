# SPDX-License-Identifier: Apache-2.0
"""The `Runtime` port on a real containerd.

What stays in containerd between calls, and what cleans up after a crash at any instant:

- `prepare` makes a snapshot "<id>-snapshot" for each container, the lease keeps it, and `remove` removes it.
- `start` makes a container record, a sandbox record (`events.ShimRecords`) and a task; `delete_task` deletes them. The
  next `start` replaces what an interrupted one left (a record without a task, a created task that never ran), or
  `remove` deletes it. The next connection removes a sandbox record without a task, and with it a shim that never got
  one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from pycm.containerd import rootfs, rpc
from pycm.containerd.client import Client
from pycm.containerd.events import EventStream, ShimRecords, ensure_lease
from pycm.containerd.execs import Execs
from pycm.containerd.images import Images
from pycm.containerd.proto import containers_pb2, snapshots_pb2, tasks_pb2
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError, UnavailableError
from pycm.failpoints import fail_point
from pycm.ports import TaskStatus
from pycm.waiting import cancel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from pycm.containerd.proto.types_pb2 import Mount
    from pycm.containerd.rpc import Call, Reply, Request
    from pycm.ports import (
        ExecListener,
        ExecRequest,
        ImageConfig,
        LocalImage,
        RuntimeEvent,
        Task,
        TaskRequest,
    )

_log = logging.getLogger("pycm.containerd")

#: On a container's snapshot: the digest of its image's configuration, which containerd keeps as long as the snapshot.
_CONFIG = "containerd.io/gc.ref.content.config"

ADDRESS = "/run/containerd/containerd.sock"
NAMESPACE = "kanto-cm"
LEASE = "kanto-cm.lease"
SNAPSHOTTER = "overlayfs"
#: A task in one of these states has no process that runs or may run.
_DEAD = (TaskStatus.CREATED, TaskStatus.STOPPED)


class ContainerdRuntime:
    """One namespace of one containerd. The first call, or `events`, connects."""

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        namespace: str = NAMESPACE,
        lease: str = LEASE,
        snapshotter: str = SNAPSHOTTER,
        exec_dir: str = "",
    ) -> None:
        """*exec_dir*: where running commands are noted, in a directory that is empty after a boot."""
        self._client = Client(address, namespace)
        self._lease = lease
        self._snapshotter = snapshotter
        self._images = Images(self._client, snapshotter, f"{lease}.unpack")
        self._execs = Execs(self._client, lease, exec_dir)
        self._records = ShimRecords(self._client)
        self._alignment: asyncio.Task[None] | None = None
        #: Ids of containers that are being started.
        self._starting: set[str] = set()
        self._stream = EventStream(self._client, self._prepare_session, self._session_tasks)

    # ── connection ──

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._stream.events()

    async def close(self) -> None:
        await cancel(self._alignment)
        self._client.close()

    async def _prepare_session(self) -> str:
        """Bring containerd into the expected state after it came up; return its version."""
        version = (await self._client.call(rpc.VERSION, Empty())).version
        await ensure_lease(self._client, self._lease)
        await self._images.forget_interrupted()
        await self._execs.end_left_over()
        return version

    async def _session_tasks(self) -> tuple[Task, ...]:
        """List the tasks, and start to align the sandbox records, after a crash or an upgrade of either side."""
        await cancel(self._alignment)
        recorded = await self._records.ids()
        tasks = await self.tasks()
        if (
            recorded is not None
        ):  # in the background: each change waits for the disk, and after a boot all records go
            self._alignment = asyncio.create_task(self._align_records(recorded, tasks))
        return tasks

    async def _align_records(self, recorded: frozenset[str], tasks: Sequence[Task]) -> None:
        """Remove records without a task, and add those of running tasks.

        After a loss, the next connection continues.
        """
        listed = {task.id for task in tasks}
        running = [task.id for task in tasks if task.status not in _DEAD]
        work = [(self._remove_left_over, container_id) for container_id in recorded - listed]
        work += [
            (self._record_adopted, container_id) for container_id in running if container_id not in recorded
        ]
        for step, container_id in work:
            try:
                if container_id not in self._starting:  # its task may not exist yet
                    await step(container_id)
            except UnavailableError:
                break
            except PycmError as error:
                _log.warning(
                    "container %s: sandbox record cannot be checked: %s (left as it is)", container_id, error
                )

    async def _remove_left_over(self, container_id: str) -> None:
        if await self._task(container_id) is None:
            await self._delete_task(container_id)  # there may be a shim that never got a task
            await self._records.remove(container_id)

    async def _record_adopted(self, container_id: str) -> None:
        """Record the shim of a task that Kanto started, or that is older than containerd's sandbox store.

        Ignore foreign tasks.
        """
        request = containers_pb2.GetContainerRequest(id=container_id)
        with contextlib.suppress(NotFoundError):
            record = (await self._call(rpc.CONTAINER_GET, request)).container
            if record.snapshot_key == _key(container_id):
                await self._records.add(container_id, record.runtime.name)

    # ── images and snapshots ──

    async def image(self, reference: str, container_id: str = "") -> ImageConfig:
        digest = await self._own_config(container_id) if container_id else ""
        if digest:
            with contextlib.suppress(NotFoundError):
                return await self._images.read_config(digest)
        return (await self._images.get(reference)).config

    async def _own_config(self, container_id: str) -> str:
        """Return the digest of the configuration with which the container was made; "" if Kanto made it."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self._snapshotter, key=_key(container_id))
        try:
            return (await self._call(rpc.SNAPSHOT_STAT, request)).info.labels.get(_CONFIG, "")
        except NotFoundError:
            return ""

    async def prepare(self, container_id: str, image: LocalImage) -> None:
        """Make the snapshot of a new container.

        Only a creation calls this, so an existing snapshot was left by a creation that a crash interrupted, or belongs
        to a lost store: it is replaced. A snapshot that a record or a task uses is a ConflictError.
        """
        try:
            await self._prepare(container_id, image.top, image.config_digest)
            return
        except ConflictError:
            await self._discard_leftover(container_id)
        except NotFoundError:  # the image is not unpacked yet
            pass
        found = await self._images.get(image.reference)
        await self._images.unpack(found)
        await self._prepare(container_id, found.top, found.config_digest)

    async def has_snapshot(self, container_id: str) -> bool:
        return await self._images.is_unpacked(_key(container_id))

    async def read_rootfs_file(self, container_id: str, path: str, limit: int) -> bytes | None:
        directories = rootfs.list_layers(await self._mounts(container_id))
        return await asyncio.to_thread(rootfs.read_file, directories, path, limit)

    # ── tasks ──

    async def start(self, request: TaskRequest, created: Callable[[int], None] | None = None) -> int:
        """Make record and task and start the task. Its exit may be among the events before this returns."""
        self._starting.add(request.id)
        try:
            return await self._start(request, created)
        finally:
            self._starting.discard(request.id)

    async def _start(self, request: TaskRequest, created: Callable[[int], None] | None) -> int:
        if await self._refuse_live(request.id):
            await self._destroy_task(request.id)
        mounts = await self._mounts(request.id)
        async with contextlib.AsyncExitStack() as undo:
            await self._create_record(request)
            fail_point("containerd.record-made")
            undo.push_async_callback(self._undo, self._delete_record, request.id)
            # before the call, so that a task of a call that timed out is destroyed too
            undo.push_async_callback(self._undo, self._destroy_task, request.id)
            task = await self._create_task(request, mounts)
            fail_point("containerd.task-made")
            if created:
                created(task.pid)
            started = await self._call(rpc.TASK_START, tasks_pb2.StartRequest(container_id=request.id))
            undo.pop_all()
        return started.pid

    async def signal(
        self, container_id: str, number: int, *, everyone: bool = False, exec_id: str = ""
    ) -> None:
        request = tasks_pb2.KillRequest(
            container_id=container_id, exec_id=exec_id, signal=number, all=everyone
        )
        await self._call(rpc.TASK_KILL, request)

    async def pause(self, container_id: str) -> None:
        await self._call(rpc.TASK_PAUSE, tasks_pb2.PauseTaskRequest(container_id=container_id))

    async def resume(self, container_id: str) -> None:
        await self._call(rpc.TASK_RESUME, tasks_pb2.ResumeTaskRequest(container_id=container_id))

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        value = rpc.pack_spec("LinuxResources", resources)
        await self._call(
            rpc.TASK_UPDATE, tasks_pb2.UpdateTaskRequest(container_id=container_id, resources=value)
        )

    async def exec(
        self, request: ExecRequest, timeout: float | None = None, listener: ExecListener | None = None
    ) -> int:
        return await self._execs.run(request, timeout, listener)

    async def close_stdin(self, container_id: str, exec_id: str = "") -> None:
        request = tasks_pb2.CloseIORequest(container_id=container_id, exec_id=exec_id, stdin=True)
        await self._call(rpc.TASK_CLOSE_IO, request)

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        request = tasks_pb2.ResizePtyRequest(
            container_id=container_id, exec_id=exec_id, width=width, height=height
        )
        await self._call(rpc.TASK_RESIZE, request)

    async def delete_task(self, container_id: str) -> None:
        try:
            await self._delete_task(container_id)
        except OperationFailedError:
            await self._refuse_live(container_id)  # containerd's answer has no specific code for this
            raise
        await self._delete_record(container_id)

    async def remove(self, container_id: str) -> None:
        await self._destroy_task(container_id)
        fail_point("containerd.task-destroyed")
        await self._delete_record(container_id)
        await self._remove_snapshot(container_id)

    async def tasks(self) -> tuple[Task, ...]:
        found = await self._call(rpc.TASK_LIST, tasks_pb2.ListTasksRequest())
        return tuple(rpc.read_task(process) for process in found.tasks)

    # ── steps ──

    async def _call(self, call: Call[Request, Reply], request: Request) -> Reply:
        return await self._client.call(call, request, lease=self._lease)

    async def _prepare(self, container_id: str, parent: str, config_digest: str) -> None:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=self._snapshotter,
            key=_key(container_id),
            parent=parent,
            labels={_CONFIG: config_digest},
        )
        await self._call(rpc.SNAPSHOT_PREPARE, request)

    async def _discard_leftover(self, container_id: str) -> None:
        if await self._task(container_id) or await self._has_record(container_id):
            namespace = self._client.namespace
            raise ConflictError(
                f"container {container_id} exists already in containerd's namespace {namespace}",
                hint=f'Remove it with "ctr -n {namespace} containers rm {container_id}", or use another id.',
            )
        _log.warning("snapshot %s: an unknown container left it (replacing it)", _key(container_id))
        await self._remove_snapshot(container_id)

    async def _remove_snapshot(self, container_id: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._snapshotter, key=_key(container_id))
        with contextlib.suppress(NotFoundError):
            await self._call(rpc.SNAPSHOT_REMOVE, request)

    async def _mounts(self, container_id: str) -> Sequence[Mount]:
        request = snapshots_pb2.MountsRequest(snapshotter=self._snapshotter, key=_key(container_id))
        try:
            return (await self._client.call(rpc.SNAPSHOT_MOUNTS, request)).mounts
        except NotFoundError:
            raise NotFoundError(
                f"containerd no longer has snapshot {_key(container_id)}",
                hint="Remove the container and create it again.",
            ) from None

    def _record(self, request: TaskRequest) -> containers_pb2.CreateContainerRequest:
        """Write the record as Kanto does, without labels and image, so that either of the two can take the container
        over.
        """
        container = containers_pb2.Container(
            id=request.id,
            spec=rpc.pack_spec("Spec", request.spec),
            snapshotter=self._snapshotter,
            snapshot_key=_key(request.id),
        )
        container.runtime.name = request.runtime
        options = rpc.pack_runtime_options(
            request.runtime, systemd_cgroup=request.systemd_cgroup, binary=request.runtime_binary
        )
        if options is not None:
            container.runtime.options.CopyFrom(options)
        return containers_pb2.CreateContainerRequest(container=container)

    async def _create_record(self, request: TaskRequest) -> None:
        record = self._record(request)
        try:
            await self._call(rpc.CONTAINER_CREATE, record)
        except ConflictError:  # there is no live task, so the old record is not in use
            _log.info("container %s: record of an earlier start exists (replacing it)", request.id)
            await self._delete_task(request.id)  # a shim that never got a task
            await self._delete_record(request.id)
            await self._call(rpc.CONTAINER_CREATE, record)

    async def _create_task(
        self, request: TaskRequest, mounts: Sequence[Mount]
    ) -> tasks_pb2.CreateTaskResponse:
        """Create the task, and its sandbox record at the same time: the record waits for the disk."""
        task, _ = await asyncio.gather(
            self._call(rpc.TASK_CREATE, _task_request(request, mounts)),
            self._records.add(request.id, request.runtime),
            return_exceptions=True,
        )
        if isinstance(task, BaseException):
            raise task
        return task

    async def _has_record(self, container_id: str) -> bool:
        try:
            await self._call(rpc.CONTAINER_GET, containers_pb2.GetContainerRequest(id=container_id))
        except NotFoundError:
            return False
        return True

    async def _delete_record(self, container_id: str) -> None:
        with contextlib.suppress(NotFoundError):
            await self._call(rpc.CONTAINER_DELETE, containers_pb2.DeleteContainerRequest(id=container_id))
        await self._records.remove(container_id)

    async def _task(self, container_id: str) -> Task | None:
        try:
            found = await self._call(rpc.TASK_GET, tasks_pb2.GetRequest(container_id=container_id))
        except NotFoundError:
            return None
        return rpc.read_task(found.process)

    async def _refuse_live(self, container_id: str) -> bool:
        """Raise ConflictError if the container has a live task; return whether it has a dead one."""
        task = await self._task(container_id)
        if task is not None and task.status not in _DEAD:
            raise ConflictError(
                f"container {container_id} is {task.status.value} in containerd (pid {task.pid})"
            )
        return task is not None

    async def _delete_task(self, container_id: str) -> None:
        with contextlib.suppress(NotFoundError):
            await self._call(rpc.TASK_DELETE, tasks_pb2.DeleteTaskRequest(container_id=container_id))

    async def _destroy_task(self, container_id: str) -> None:
        task = await self._task(container_id)
        if task is not None and task.status is not TaskStatus.STOPPED:
            await self._kill(container_id)
        await self._delete_task(container_id)  # also without a task: there may be a shim that never got one

    async def _kill(self, container_id: str) -> None:
        """Send SIGKILL to all processes, and wait until the first one is gone."""
        with contextlib.suppress(NotFoundError):
            await self.signal(container_id, signal.SIGKILL, everyone=True)
            # processes that cgroup v1 froze would not die; a task that is not paused refuses
            with contextlib.suppress(OperationFailedError, ConflictError):
                await self.resume(container_id)
            await self._call(rpc.TASK_WAIT, tasks_pb2.WaitRequest(container_id=container_id))

    async def _undo(self, step: Callable[[str], Awaitable[None]], container_id: str) -> None:
        """Undo one step. Its failure must not hide why the start failed; the next start or remove cleans up."""
        try:
            await step(container_id)
        except PycmError as error:
            _log.warning(
                "container %s: failed start cannot be undone: %s (the next start or removal cleans up)",
                container_id,
                error,
            )


def _key(container_id: str) -> str:
    return f"{container_id}-snapshot"


def _task_request(request: TaskRequest, mounts: Sequence[Mount]) -> tasks_pb2.CreateTaskRequest:
    return tasks_pb2.CreateTaskRequest(
        container_id=request.id,
        rootfs=mounts,
        stdin=request.io.stdin,
        stdout=request.io.stdout,
        stderr=request.io.stderr,
        terminal=request.io.terminal,
    )
