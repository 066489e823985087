# SPDX-License-Identifier: Apache-2.0
"""Real file systems under the agent's directories that run full or turn read-only: errors that say so, nothing lost, full service
again once there is room."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from images import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

TICKS = "trap 'exit 143' TERM; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.1; done"
FULL, READ_ONLY = "No space left on device", "Read-only file system"


class Disk:
    """A file system of its own at one of the agent's directories."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Disk]:
        self.directory.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=400", "pycm-test", self.directory]
        subprocess.run(mount, check=True)
        try:
            yield self
        finally:
            subprocess.run(["umount", "--lazy", self.directory], check=True)

    def fill(self) -> None:
        """To the last byte and the last file."""
        with open(self.directory / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with contextlib.suppress(OSError):
            for number in range(400):
                (self.directory / f"ballast-{number}").touch()

    def make_room(self) -> None:
        for file in self.directory.glob("ballast*"):
            file.unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.directory], check=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "home").mounted() as disk:
        yield disk


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "run").mounted() as disk:
        yield disk


def create(agent: AgentProcess, name: str, *flags: str) -> str:
    command = ("/bin/sh", "-c", TICKS)
    return agent.cm("create", "--network", "host", "--rp", "no", "-n", name, *flags, IMAGE, *command)


def assert_refused(agent: AgentProcess, reason: str, *command: str) -> None:
    done = agent.call(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def assert_full_service(agent: AgentProcess, containerd: ContainerdServer, *ids: str) -> None:
    """Whatever was refused works, and the records are those that the agent knows."""
    for container_id in ids:
        if not agent.state(container_id)["running"]:
            agent.cm("start", container_id)
        agent.cm("update", "-m", "48M", container_id)
    new = create(agent, "new")
    agent.cm("start", new)
    wait_until(lambda: len(agent.logged(new)) > 3, 30, "its output is logged")

    def recorded() -> bool:
        """The same to the last key as what the agent tells."""
        return all(
            json.loads((agent.home / "containers" / one / "config.json").read_text())["state"]
            == agent.get(one)["state"]
            for one in (*ids, new)
        )

    wait_until(recorded, 30, "all records are true")
    before = {one: agent.state(one)["pid"] for one in (*ids, new)}
    agent.kill()
    agent.start()
    assert {one: agent.state(one)["pid"] for one in agent.ids()} == before
    for container_id in (*ids, new):
        agent.cm("stop", container_id)
        assert agent.state(container_id)["exit_code"] == 143
        agent.cm("remove", container_id)
    assert containerd.ctr("containers", "ls", "-q").split() == []
    assert "-snapshot" not in containerd.ctr("snapshots", "ls")
    assert list((agent.home / "containers").iterdir()) == []
    assert not list((agent.run / "fifo").iterdir())


def assert_in_order(lines: list[str]) -> None:
    assert lines == [f"tick {n}" for n in range(1, len(lines) + 1)]


def test_a_full_disk_under_the_store(tmp_path: Path, home: Disk, containerd: ContainerdServer) -> None:
    with AgentProcess(tmp_path, containerd) as agent:
        runs, stops, made, goes = (create(agent, name) for name in ("runs", "stops", "made", "goes"))
        agent.cm("start", runs)
        agent.cm("start", stops)
        wait_until(lambda: agent.logged(runs) != [], 30, "it speaks")
        home.fill()
        wait_until(lambda: FULL in agent.text(), 30, "the log cannot be written")
        assert_refused(agent, FULL, "create", "--network", "host", IMAGE)
        assert_refused(agent, FULL, "start", made)
        assert FULL in agent.state(made)["error"]
        assert_refused(agent, FULL, "rename", runs, "other")
        assert_refused(agent, FULL, "update", "-m", "32M", runs)
        agent.cm("stop", stops)  # neither of these makes the disk fuller
        agent.cm("remove", goes)
        assert agent.ids() == [runs, stops, made]
        pid = agent.state(runs)["pid"]
        home.fill()
        agent.kill()
        agent.start()
        assert agent.ids() == [runs, stops, made]
        assert agent.state(runs)["pid"] == pid
        assert agent.wait_for(stops, running=False)["pid"] == -1
        home.make_room()
        spoken = len(agent.logged(runs))
        wait_until(lambda: len(agent.logged(runs)) > spoken + 3, 60, "the log goes on")
        assert_in_order(agent.logged(runs))
        assert_full_service(agent, containerd, runs, stops, made)


def test_a_read_only_disk_under_the_store(tmp_path: Path, home: Disk, containerd: ContainerdServer) -> None:
    quiet = ("--log-driver", "none")  # an open log would keep the disk from becoming read-only
    with AgentProcess(tmp_path, containerd) as agent:
        runs, stops, made = (create(agent, name, *quiet) for name in ("runs", "stops", "made"))
        agent.cm("start", runs)
        agent.cm("start", stops)
        home.remount("ro")
        assert_refused(agent, READ_ONLY, "create", "--network", "host", IMAGE)
        assert_refused(agent, READ_ONLY, "rename", runs, "other")
        assert_refused(agent, READ_ONLY, "update", "-m", "32M", runs)
        assert_refused(agent, READ_ONLY, "remove", made)
        agent.cm("stop", stops)
        pid = agent.state(runs)["pid"]
        agent.kill()
        agent.start()
        assert agent.ids() == [runs, stops, made]
        assert agent.state(runs)["pid"] == pid
        assert agent.wait_for(stops, running=False)["pid"] == -1
        home.remount("rw")
        assert_full_service(agent, containerd, runs, stops, made)


def test_a_full_directory_for_what_a_run_needs(
    tmp_path: Path, run: Disk, containerd: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd) as agent:
        runs, stops, made = (create(agent, name) for name in ("runs", "stops", "made"))
        agent.cm("start", runs)
        agent.cm("start", stops)
        run.fill()
        assert_refused(agent, FULL, "start", made)
        assert FULL in agent.state(made)["error"]
        agent.cm("stop", stops)
        spoken = len(agent.logged(runs))
        wait_until(lambda: len(agent.logged(runs)) > spoken + 3, 30, "the log goes on")
        run.make_room()
        agent.cm("start", made)
        assert_in_order(agent.logged(runs))
        assert_full_service(agent, containerd, runs, stops, made)
