# SPDX-License-Identifier: Apache-2.0
"""The calls of containerd's API that pycm makes, and its messages to the values of `pycm.ports` and back: data, no I/O.

containerd runs a call under the deadline of that call. The timeouts therefore end what hangs, not what is slow: a
loaded single-board computer needs seconds to start a container.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from pycm.containerd.proto import (
    containers_pb2,
    content_pb2,
    diff_pb2,
    events_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    namespaces_pb2,
    runc_pb2,
    sandbox_pb2,
    snapshots_pb2,
    task_events_pb2,
    task_types_pb2,
    tasks_pb2,
    version_pb2,
)
from pycm.model.units import NANOSECONDS, format_ns
from pycm.ports import Exit, Task, TaskExited, TaskIO, TaskOOM, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from pycm.containerd.proto.events_pb2 import Envelope

Request = TypeVar("Request", bound="Message")
Reply = TypeVar("Reply", bound="Message")

# ── calls ──

QUICK = 15.0  # containerd's own database and files
SHIM = 120.0  # forks, runc, hooks; deleting a task may wait 10 s for output to be read
UNPACK = 1800.0  # one layer: gigabytes onto slow flash
EXIT = 30.0  # processes after SIGKILL
GC = 300.0  # removal of an image, which waits for the garbage collection
ENDLESS = None


class Call(Generic[Request, Reply]):
    """One method: its path on the wire, the types of its messages and its timeout in seconds (None: no limit)."""

    __slots__ = ("name", "path", "reply", "request", "seconds")

    def __init__(
        self,
        service: str,
        method: str,
        request: type[Request],
        reply: type[Reply],
        seconds: float | None = QUICK,
    ) -> None:
        self.path = f"/{service}/{method}"
        self.name = f"{service.rpartition('.')[2]}.{method}"  # for messages: "Tasks.Create"
        self.request = request
        self.reply = reply
        self.seconds = seconds


_VERSION = "containerd.services.version.v1.Version"
_NAMESPACES = "containerd.services.namespaces.v1.Namespaces"
_LEASES = "containerd.services.leases.v1.Leases"
_IMAGES = "containerd.services.images.v1.Images"
_CONTENT = "containerd.services.content.v1.Content"
_SNAPSHOTS = "containerd.services.snapshots.v1.Snapshots"
_DIFF = "containerd.services.diff.v1.Diff"
_CONTAINERS = "containerd.services.containers.v1.Containers"
_SANDBOXES = "containerd.services.sandbox.v1.Store"
_TASKS = "containerd.services.tasks.v1.Tasks"
_EVENTS = "containerd.services.events.v1.Events"
_INTROSPECTION = "containerd.services.introspection.v1.Introspection"

# fmt: off
VERSION = Call(_VERSION, "Version", Empty, version_pb2.VersionResponse)
PLUGINS = Call(_INTROSPECTION, "Plugins", introspection_pb2.PluginsRequest, introspection_pb2.PluginsResponse)

NAMESPACE_CREATE = Call(_NAMESPACES, "Create", namespaces_pb2.CreateNamespaceRequest, namespaces_pb2.CreateNamespaceResponse)

LEASE_CREATE = Call(_LEASES, "Create", leases_pb2.CreateRequest, leases_pb2.CreateResponse)
LEASE_DELETE = Call(_LEASES, "Delete", leases_pb2.DeleteRequest, Empty)
LEASE_COLLECT = Call(_LEASES, "Delete", leases_pb2.DeleteRequest, Empty, GC)
LEASE_LIST = Call(_LEASES, "List", leases_pb2.ListRequest, leases_pb2.ListResponse)
LEASE_RESOURCES = Call(_LEASES, "ListResources", leases_pb2.ListResourcesRequest, leases_pb2.ListResourcesResponse)
LEASE_ADD = Call(_LEASES, "AddResource", leases_pb2.AddResourceRequest, Empty)
LEASE_DROP = Call(_LEASES, "DeleteResource", leases_pb2.DeleteResourceRequest, Empty)

IMAGE_GET = Call(_IMAGES, "Get", images_pb2.GetImageRequest, images_pb2.GetImageResponse)
IMAGE_LIST = Call(_IMAGES, "List", images_pb2.ListImagesRequest, images_pb2.ListImagesResponse)
IMAGE_CREATE = Call(_IMAGES, "Create", images_pb2.CreateImageRequest, images_pb2.CreateImageResponse)
IMAGE_UPDATE = Call(_IMAGES, "Update", images_pb2.UpdateImageRequest, images_pb2.UpdateImageResponse)
IMAGE_DELETE = Call(_IMAGES, "Delete", images_pb2.DeleteImageRequest, Empty, GC)

CONTENT_INFO = Call(_CONTENT, "Info", content_pb2.InfoRequest, content_pb2.InfoResponse)
CONTENT_READ = Call(_CONTENT, "Read", content_pb2.ReadContentRequest, content_pb2.ReadContentResponse)
CONTENT_UPDATE = Call(_CONTENT, "Update", content_pb2.UpdateRequest, content_pb2.UpdateResponse)
CONTENT_WRITE = Call(_CONTENT, "Write", content_pb2.WriteContentRequest, content_pb2.WriteContentResponse, ENDLESS)
CONTENT_DELETE = Call(_CONTENT, "Delete", content_pb2.DeleteContentRequest, Empty)
CONTENT_ABORT = Call(_CONTENT, "Abort", content_pb2.AbortRequest, Empty)

SNAPSHOT_PREPARE = Call(_SNAPSHOTS, "Prepare", snapshots_pb2.PrepareSnapshotRequest, snapshots_pb2.PrepareSnapshotResponse)
SNAPSHOT_COMMIT = Call(_SNAPSHOTS, "Commit", snapshots_pb2.CommitSnapshotRequest, Empty)
SNAPSHOT_MOUNTS = Call(_SNAPSHOTS, "Mounts", snapshots_pb2.MountsRequest, snapshots_pb2.MountsResponse)
SNAPSHOT_REMOVE = Call(_SNAPSHOTS, "Remove", snapshots_pb2.RemoveSnapshotRequest, Empty, SHIM)
SNAPSHOT_STAT = Call(_SNAPSHOTS, "Stat", snapshots_pb2.StatSnapshotRequest, snapshots_pb2.StatSnapshotResponse)
SNAPSHOT_LIST = Call(_SNAPSHOTS, "List", snapshots_pb2.ListSnapshotsRequest, snapshots_pb2.ListSnapshotsResponse)

DIFF_APPLY = Call(_DIFF, "Apply", diff_pb2.ApplyRequest, diff_pb2.ApplyResponse, UNPACK)

CONTAINER_GET = Call(_CONTAINERS, "Get", containers_pb2.GetContainerRequest, containers_pb2.GetContainerResponse)
CONTAINER_CREATE = Call(_CONTAINERS, "Create", containers_pb2.CreateContainerRequest, containers_pb2.CreateContainerResponse)
CONTAINER_DELETE = Call(_CONTAINERS, "Delete", containers_pb2.DeleteContainerRequest, Empty)

SANDBOX_CREATE = Call(_SANDBOXES, "Create", sandbox_pb2.StoreCreateRequest, sandbox_pb2.StoreCreateResponse)
SANDBOX_DELETE = Call(_SANDBOXES, "Delete", sandbox_pb2.StoreDeleteRequest, sandbox_pb2.StoreDeleteResponse)
SANDBOX_LIST = Call(_SANDBOXES, "List", sandbox_pb2.StoreListRequest, sandbox_pb2.StoreListResponse)

TASK_CREATE = Call(_TASKS, "Create", tasks_pb2.CreateTaskRequest, tasks_pb2.CreateTaskResponse, SHIM)
TASK_START = Call(_TASKS, "Start", tasks_pb2.StartRequest, tasks_pb2.StartResponse, SHIM)
TASK_DELETE = Call(_TASKS, "Delete", tasks_pb2.DeleteTaskRequest, tasks_pb2.DeleteResponse, SHIM)
TASK_GET = Call(_TASKS, "Get", tasks_pb2.GetRequest, tasks_pb2.GetResponse)
TASK_LIST = Call(_TASKS, "List", tasks_pb2.ListTasksRequest, tasks_pb2.ListTasksResponse, SHIM)
TASK_KILL = Call(_TASKS, "Kill", tasks_pb2.KillRequest, Empty, SHIM)
TASK_PAUSE = Call(_TASKS, "Pause", tasks_pb2.PauseTaskRequest, Empty, SHIM)
TASK_RESUME = Call(_TASKS, "Resume", tasks_pb2.ResumeTaskRequest, Empty, SHIM)
TASK_UPDATE = Call(_TASKS, "Update", tasks_pb2.UpdateTaskRequest, Empty, SHIM)
TASK_EXEC = Call(_TASKS, "Exec", tasks_pb2.ExecProcessRequest, Empty, SHIM)
TASK_EXEC_WAIT = Call(_TASKS, "Wait", tasks_pb2.WaitRequest, tasks_pb2.WaitResponse, ENDLESS)
TASK_EXEC_DELETE = Call(_TASKS, "DeleteProcess", tasks_pb2.DeleteProcessRequest, tasks_pb2.DeleteResponse, SHIM)
TASK_RESIZE = Call(_TASKS, "ResizePty", tasks_pb2.ResizePtyRequest, Empty)
TASK_CLOSE_IO = Call(_TASKS, "CloseIO", tasks_pb2.CloseIORequest, Empty)
TASK_WAIT = Call(_TASKS, "Wait", tasks_pb2.WaitRequest, tasks_pb2.WaitResponse, EXIT)

EVENT_PUBLISH = Call(_EVENTS, "Publish", events_pb2.PublishRequest, Empty)
EVENT_SUBSCRIBE = Call(_EVENTS, "Subscribe", events_pb2.SubscribeRequest, events_pb2.Envelope, ENDLESS)
# fmt: on

# ── messages ──

TOPIC_EXIT = "/tasks/exit"
TOPIC_OOM = "/tasks/oom"
#: Seconds of the years 1 to 9999: the definition of protobuf's Timestamp limits it to them, its code does not.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_SPEC_URL = "types.containerd.io/opencontainers/runtime-spec/1/"
#: Runtimes with this prefix are runc's shim, which reads runc's options.
_RUNC_SHIM = "io.containerd.runc."
_STATUS: dict[int, TaskStatus] = {
    task_types_pb2.CREATED: TaskStatus.CREATED,
    task_types_pb2.RUNNING: TaskStatus.RUNNING,
    task_types_pb2.STOPPED: TaskStatus.STOPPED,
    task_types_pb2.PAUSED: TaskStatus.PAUSED,
    task_types_pb2.PAUSING: TaskStatus.PAUSED,
}


def format_stamp(stamp: Timestamp) -> str:
    """Return the time in UTC as Go prints it, with the four-digit year of Go's zero time."""
    seconds = min(max(stamp.seconds, _FIRST_SECOND), _LAST_SECOND)
    year, dash, rest = format_ns(seconds * NANOSECONDS + stamp.nanos).partition("-")
    return year.zfill(4) + dash + rest


def read_exit(status: int, at: Timestamp) -> Exit:
    return Exit(status & 0xFF, format_stamp(at))


def read_task(process: task_types_pb2.Process) -> Task:
    status = _STATUS.get(process.status, TaskStatus.UNKNOWN)
    io = TaskIO(process.stdin, process.stdout, process.stderr, process.terminal)
    ended = read_exit(process.exit_status, process.exited_at) if status is TaskStatus.STOPPED else None
    # Get fills the container id, List of containerd 1.6 only the id
    return Task(process.container_id or process.id, process.pid, status, io, ended)


def read_event(envelope: Envelope, namespace: str) -> TaskExited | TaskOOM | None:
    """Return what happened to the first process or the memory of a container in *namespace*, None for other events."""
    if envelope.namespace != namespace:
        return None
    try:
        if envelope.topic == TOPIC_EXIT:
            return _read_exited(task_events_pb2.TaskExit.FromString(envelope.event.value))
        if envelope.topic == TOPIC_OOM:
            return TaskOOM(task_events_pb2.TaskOOM.FromString(envelope.event.value).container_id)
    except DecodeError:
        return None  # another client published something else under this topic
    return None


def _read_exited(message: task_events_pb2.TaskExit) -> TaskExited | None:
    if message.id != message.container_id:
        return None  # a process that was executed into the container
    return TaskExited(message.container_id, message.pid, read_exit(message.exit_status, message.exited_at))


def pack_spec(kind: str, value: Mapping[str, Any]) -> AnyMessage:
    """Return an OCI runtime object ("Spec", "LinuxResources") in containerd's form: JSON in an Any."""
    return AnyMessage(type_url=_SPEC_URL + kind, value=json.dumps(value).encode())


def pack_runtime_options(runtime: str, *, systemd_cgroup: bool, binary: str = "") -> AnyMessage | None:
    """Return runc's options; None for shims that do not understand them, and for the defaults."""
    if not ((systemd_cgroup or binary) and runtime.startswith(_RUNC_SHIM)):
        return None
    options = runc_pb2.Options(systemd_cgroup=systemd_cgroup, binary_name=binary)
    return AnyMessage(type_url="containerd.runc.v1.Options", value=options.SerializeToString())


def make_marker() -> AnyMessage:
    """Return a harmless event that other subscribers can decode: a notice about no namespace."""
    message = task_events_pb2.NamespaceUpdate()
    return AnyMessage(type_url="containerd.events.NamespaceUpdate", value=message.SerializeToString())
