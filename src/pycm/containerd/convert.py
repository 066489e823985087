# SPDX-License-Identifier: Apache-2.0
"""containerd's messages to the values of `pycm.ports` and back: pure, no I/O."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from pycm.containerd.proto import runc_pb2, task_events_pb2, task_types_pb2
from pycm.ports import Exit, Task, TaskExited, TaskIO, TaskOOM, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.timestamp_pb2 import Timestamp

    from pycm.containerd.proto.events_pb2 import Envelope

#: Seconds of the years 1 to 9999, to which protobuf's Timestamp is limited by its definition, but not by its code.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_SPEC_URL = "types.containerd.io/opencontainers/runtime-spec/1/"
TOPIC_EXIT = "/tasks/exit"
TOPIC_OOM = "/tasks/oom"
#: Runtimes with this prefix are runc's shim and take its options.
_RUNC_SHIM = "io.containerd.runc."

_STATUS: dict[int, TaskStatus] = {
    task_types_pb2.CREATED: TaskStatus.CREATED,
    task_types_pb2.RUNNING: TaskStatus.RUNNING,
    task_types_pb2.STOPPED: TaskStatus.STOPPED,
    task_types_pb2.PAUSED: TaskStatus.PAUSED,
    task_types_pb2.PAUSING: TaskStatus.PAUSED,
}


#: What containerd, its shim and runc put before a cause: what they were doing, without any detail of it.
_LAYER = re.compile(
    r"(rpc error|(code = \w+ desc = )?([\w ]+ (failed|caused)|failed to (create|start|exec) [\w ]+)"
    r"|unable to start container process|error during container init|\w+\.go:\d+|\w+\.go:\d+ [\w ]+ caused)"
)


def rfc3339(stamp: Timestamp) -> str:
    """UTC with nanoseconds as Go prints them: no trailing zeros, "Z"."""
    seconds = min(max(stamp.seconds, _FIRST_SECOND), _LAST_SECOND)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).rjust(len("2006-01-02T15:04:05"), "0")
    fraction = f"{stamp.nanos:09d}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"


def exit_of(status: int, at: Timestamp) -> Exit:
    return Exit(status & 0xFF, rfc3339(at))


def task(process: task_types_pb2.Process) -> Task:
    status = _STATUS.get(process.status, TaskStatus.UNKNOWN)
    io = TaskIO(process.stdin, process.stdout, process.stderr, process.terminal)
    ended = exit_of(process.exit_status, process.exited_at) if status is TaskStatus.STOPPED else None
    # Get fills the container id, List of containerd 1.6 only the id
    return Task(process.container_id or process.id, process.pid, status, io, ended)


def event(envelope: Envelope, namespace: str) -> TaskExited | TaskOOM | None:
    """What an envelope says about a container's first process or memory, None for everything else."""
    if envelope.namespace != namespace:
        return None
    try:
        if envelope.topic == TOPIC_EXIT:
            return _exited(task_events_pb2.TaskExit.FromString(envelope.event.value))
        if envelope.topic == TOPIC_OOM:
            return TaskOOM(task_events_pb2.TaskOOM.FromString(envelope.event.value).container_id)
    except DecodeError:
        return None  # not what the topic says: somebody else's event
    return None


def _exited(message: task_events_pb2.TaskExit) -> TaskExited | None:
    if message.id != message.container_id:
        return None  # a process that was executed into the container
    return TaskExited(message.container_id, message.pid, exit_of(message.exit_status, message.exited_at))


def spec_any(kind: str, value: Mapping[str, Any]) -> AnyMessage:
    """An OCI runtime object ("Spec", "LinuxResources") as containerd wants it: JSON in an Any."""
    return AnyMessage(type_url=_SPEC_URL + kind, value=json.dumps(value).encode())


def runtime_options(runtime: str, *, systemd_cgroup: bool, binary: str = "") -> AnyMessage | None:
    """runc's options; None for shims that would not understand them, and where the defaults are meant."""
    if not ((systemd_cgroup or binary) and runtime.startswith(_RUNC_SHIM)):
        return None
    options = runc_pb2.Options(systemd_cgroup=systemd_cgroup, binary_name=binary)
    return AnyMessage(type_url="containerd.runc.v1.Options", value=options.SerializeToString())


def marker(topic: str) -> tuple[str, AnyMessage]:
    """An event of our own that other listeners can decode: a harmless notice about no namespace."""
    message = task_events_pb2.NamespaceUpdate()
    return topic, AnyMessage(type_url="containerd.events.NamespaceUpdate", value=message.SerializeToString())


def failure(call: str, text: str, limit: int) -> str:
    """What containerd says of a failed *call*, the cause first, so that whoever shortens the text keeps it.

    Go puts the cause at the end, behind what each layer was doing. A text longer than *limit* is cut in its middle.
    """
    parts = text.removesuffix(": unknown").split(": ")
    layers = next((n for n, part in enumerate(parts) if not _LAYER.fullmatch(part)), len(parts) - 1)
    layers = min(layers, len(parts) - 1)
    if not layers:
        return f"containerd's {call} failed: {_without_middle(': '.join(parts), limit)}"
    cause, context = ": ".join(parts[layers:]), ": ".join(parts[:layers])
    rest = max(limit - len(cause), limit // 4)
    return f"{_without_middle(cause, limit - limit // 4)} (containerd's {call}: {_without_middle(context, rest)})"


def _without_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[head + 1 - limit :]}"
