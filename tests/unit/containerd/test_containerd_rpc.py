# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pycm.containerd import rpc
from pycm.containerd.proto import runc_pb2, task_types_pb2
from pycm.ports import Exit, TaskIO, TaskStatus


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (1714557600, 123456789, "2024-05-01T10:00:00.123456789Z"),
        (1714557600, 120000000, "2024-05-01T10:00:00.12Z"),
        (1714557600, 0, "2024-05-01T10:00:00Z"),
        (0, 1, "1970-01-01T00:00:00.000000001Z"),
        (-62135596800, 0, "0001-01-01T00:00:00Z"),  # Go's zero time
        (-(2**62), 0, "0001-01-01T00:00:00Z"),
        (2**62, 0, "9999-12-31T23:59:59Z"),
    ],
)
def test_times_look_as_go_prints_them(seconds: int, nanos: int, text: str) -> None:
    assert rpc.format_stamp(Timestamp(seconds=seconds, nanos=nanos)) == text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (task_types_pb2.CREATED, TaskStatus.CREATED),
        (task_types_pb2.RUNNING, TaskStatus.RUNNING),
        (task_types_pb2.PAUSED, TaskStatus.PAUSED),
        (task_types_pb2.PAUSING, TaskStatus.PAUSED),
        (task_types_pb2.UNKNOWN, TaskStatus.UNKNOWN),
        (99, TaskStatus.UNKNOWN),
    ],
)
def test_a_live_task_has_a_status_and_no_exit(status: int, expected: TaskStatus) -> None:
    process = task_types_pb2.Process(id="c1", pid=7, status=status, stdout="/o", terminal=True)
    task = rpc.read_task(process)
    assert (task.id, task.pid, task.status, task.exit) == ("c1", 7, expected, None)
    assert task.io == TaskIO(stdout="/o", terminal=True)


def test_a_stopped_task_has_its_exit() -> None:
    process = task_types_pb2.Process(
        id="", container_id="c1", status=task_types_pb2.STOPPED, exit_status=256 + 3
    )
    assert rpc.read_task(process).exit == Exit(3, "1970-01-01T00:00:00Z")


def test_spec_and_resources_travel_as_json_under_containerds_names() -> None:
    message = rpc.pack_spec("LinuxResources", {"memory": {"limit": 1}})
    assert message.type_url == "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
    assert json.loads(message.value) == {"memory": {"limit": 1}}


def test_only_runcs_shim_gets_runcs_options() -> None:
    options = rpc.pack_runtime_options("io.containerd.runc.v2", systemd_cgroup=True)
    assert options is not None
    assert options.type_url == "containerd.runc.v1.Options"
    assert runc_pb2.Options.FromString(options.value) == runc_pb2.Options(systemd_cgroup=True)
    crun = rpc.pack_runtime_options("io.containerd.runc.v2", systemd_cgroup=False, binary="crun")
    assert crun is not None
    assert runc_pb2.Options.FromString(crun.value) == runc_pb2.Options(binary_name="crun")
    assert rpc.pack_runtime_options("io.containerd.kata.v2", systemd_cgroup=True) is None
    assert rpc.pack_runtime_options("io.containerd.runc.v2", systemd_cgroup=False) is None
