# SPDX-License-Identifier: Apache-2.0
"""The sampler on real containers of a real containerd, on whatever cgroups this machine has."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time

import pytest
from containerd_server import private_containerd, wait_until
from images import Image, write_archive

from pycm.metrics.sampler import Sampler
from pycm.model import measurements as ids

pytestmark = pytest.mark.integration
LIMIT = 64 * 1024 * 1024
IMAGE = Image()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with private_containerd() as server:
        archive = write_archive(tmp_path_factory.mktemp("image") / "image.tar", IMAGE)
        server.ctr("images", "import", archive)
        yield server


@pytest.fixture
def container(server):
    """A function that runs a container and returns its pid; they are removed at the end."""
    names = []

    def run(name, *command, options=()):
        where = f"/{server.namespace}/{name}"
        server.ctr(
            "run", "--detach", "--cgroup", where, *options, IMAGE.name, name, "/bin/sh", "-c", *command
        )
        names.append(name)
        return pid(name)

    def pid(name):
        lines = [line.split() for line in server.ctr("tasks", "ls").splitlines()]
        return next(int(line[1]) for line in lines if line[0] == name)

    yield run
    for name in names:
        with contextlib.suppress(AssertionError):  # it may have ended by itself
            server.ctr("tasks", "kill", "--signal", "SIGKILL", name)
        wait_until(lambda name=name: _is_stopped(server, name), 10, f"{name} ends")
        with contextlib.suppress(AssertionError):  # a test may have deleted it
            server.ctr("tasks", "delete", name)
        server.ctr("containers", "delete", name)


def _is_stopped(server, name):
    lines = [line.split() for line in server.ctr("tasks", "ls").splitlines()]
    return not any(line[0] == name and line[2] != "STOPPED" for line in lines)


@pytest.fixture
def sampler():
    sampler = Sampler()
    yield sampler
    sampler.close_all()


def sample(sampler, name, predicate=None):
    found = sampler.sample({name: predicate})
    return {item.id: item.value for one in found for item in one.measurements}


def test_a_busy_container_shows_its_cpu_memory_and_tasks(container, sampler):
    pid = container("busy", "while :; do :; done", options=("--memory-limit", str(LIMIT), "--net-host"))
    sampler.open("busy", pid)
    sampler.baseline(["busy"])
    wait_until(lambda: sample(sampler, "busy").get(ids.CPU_UTILIZATION, 0) > 0, 20, "CPU time is used")
    found = sample(sampler, "busy")
    assert found[ids.MEMORY_TOTAL] == LIMIT
    assert 0 < found[ids.MEMORY_USED] < LIMIT
    assert found[ids.MEMORY_UTILIZATION] == pytest.approx(found[ids.MEMORY_USED] / LIMIT * 100)
    assert (found[ids.NET_READ_BYTES], found[ids.NET_WRITE_BYTES]) == (0, 0)
    assert found[ids.PIDS] == 1


def test_memory_that_a_container_fills_is_seen(container, sampler):
    pid = container("full", "dd if=/dev/zero of=/dev/shm/file bs=1M count=16 && exec sleep 600")
    sampler.open("full", pid)
    wait_until(lambda: sample(sampler, "full")[ids.MEMORY_USED] >= 16 << 20, 20, "16 MiB are used")
    assert sample(sampler, "full")[ids.MEMORY_USED] < 24 << 20


def test_a_container_in_its_own_network_is_measured_there(container, sampler):
    pid = container("own", "exec sleep 600")
    sampler.open("own", pid)
    found = sample(sampler, "own")
    # Its namespace has the loop-back interface only.
    assert (found[ids.NET_READ_BYTES], found[ids.NET_WRITE_BYTES]) == (0, 0)
    assert any(f"{pid}/net/dev" in name for name in kept())
    sampler.close("own")
    assert not any(f"{pid}/net/dev" in name for name in kept())


def kept():
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return [os.readlink(name) for name in names if os.path.islink(name)]


def test_a_container_that_ends_is_measured_no_more_and_nothing_is_logged(server, container, sampler, caplog):
    pid = container("brief", "exec sleep 600", options=("--net-host",))
    sampler.open("brief", pid)
    assert sample(sampler, "brief")
    server.ctr("tasks", "kill", "--signal", "SIGKILL", "brief")
    wait_until(lambda: _is_stopped(server, "brief"), 10, "the container ends")
    server.ctr("tasks", "delete", "brief")
    wait_until(lambda: sample(sampler, "brief") == {}, 10, "its cgroup is gone")
    assert caplog.messages == []


def test_a_kill_for_want_of_memory_is_counted_while_the_task_is_not_deleted(server, container, sampler):
    script = "until [ -e /tmp/go ]; do sleep 0.05; done; dd if=/dev/zero of=/dev/shm/file bs=1M count=64"
    pid = container("greedy", script, options=("--memory-limit", str(8 << 20), "--net-host"))
    sampler.open("greedy", pid)
    pathlib.Path(f"/proc/{pid}/root", "tmp/go").touch()
    wait_until(lambda: _is_stopped(server, "greedy"), 20, "the container ends")
    assert sampler.close("greedy") >= 1


def test_pressure_is_there_if_the_kernel_counts_it(container, sampler):
    pid = container("tense", "while :; do :; done", options=("--net-host",))
    sampler.open("tense", pid)
    found = sample(sampler, "tense", {ids.CPU_PRESSURE}.__contains__)
    assert set(found) == ({ids.CPU_PRESSURE} if os.path.exists("/proc/pressure/cpu") else set())
    assert all(0 <= value <= 100 for value in found.values())


def test_utilization_is_a_share_of_all_cores(container, sampler):
    pid = container("share", "while :; do :; done", options=("--net-host",))
    sampler.open("share", pid)
    sampler.baseline(["share"])
    time.sleep(1)  # the length of the measurement, not a wait for something to happen
    # one core; half of one more is for a busy machine, which may stop us between the reading of the clock and of the file
    assert 0 < sample(sampler, "share")[ids.CPU_UTILIZATION] <= 100 / (os.cpu_count() or 1) * 1.5
