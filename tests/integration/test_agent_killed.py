# SPDX-License-Identifier: Apache-2.0
"""The agent killed between any two steps of an operation: the next one finds its way, the command repeated reaches its goal, and
nothing is left over in containerd, in the agent's directories or among the processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from containerd_server import ContainerdServer, wait_until
from images import IMAGE

if TYPE_CHECKING:
    from agent_process import AgentProcess

pytestmark = pytest.mark.integration

ID = "c1"
FOREVER = "trap 'exit 143' TERM; echo begun; while :; do sleep 0.1; done"


def create(agent: AgentProcess) -> bool:
    """With an id of its own, which the command line's flags cannot give."""
    file = agent.directory / "c1.json"
    description = {
        "container_id": ID,
        "image": {"name": IMAGE},
        "host_config": {"network_mode": "host", "restart_policy": {"type": "no"}},
        "config": {"cmd": ["/bin/sh", "-c", FOREVER]},
    }
    file.write_text(json.dumps(description))
    return agent.call("create", "--file", file).returncode == 0


def restarted(agent: AgentProcess, point: str) -> None:
    """The same agent once more, which is going to die at *point*."""
    assert agent.end() == 0
    agent.start(PYCM_FAIL_POINT=point)


def dies(agent: AgentProcess, *command: str) -> None:
    agent.call(*command)
    assert agent.process
    assert agent.process.wait(120) == -signal.SIGKILL, "the fail point was not reached"
    agent.start()


def speaks(agent: AgentProcess) -> None:
    """Its script runs: a first process that has no trap yet ignores the signal to end."""
    wait_until(lambda: agent.logged(ID) == ["begun"], 10, "its output is logged")


def keepers(agent: AgentProcess) -> list[str]:
    """Pids of the sleeping processes that hold this agent's FIFOs open; agent and shims do so too."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/3"):
        with contextlib.suppress(OSError):
            ours = os.readlink(link).startswith(f"{agent.run}/fifo/")
            if ours and (link.parents[1] / "comm").read_text() == "sleep\n":
                found.append(link.parts[2])
    return found


def assert_running_as_one(agent: AgentProcess, containerd: ContainerdServer) -> None:
    state = agent.wait_for(ID, status=2)
    tasks = containerd.ctr("tasks", "ls").splitlines()[1:]
    assert [line.split()[:3] for line in tasks] == [[ID, str(state["pid"]), "RUNNING"]]
    assert len(keepers(agent)) == 1
    wait_until(lambda: agent.logged(ID)[-1:] == ["begun"], 10, "its output is logged")


def assert_stopped(agent: AgentProcess, containerd: ContainerdServer) -> None:
    assert containerd.ctr("tasks", "ls", "-q").split() == []
    assert containerd.ctr("containers", "ls", "-q").split() == []
    wait_until(lambda: not keepers(agent), 10, "the keeper ends")
    assert not list((agent.run / "fifo").rglob("*"))
    assert not list((agent.run / "spool").rglob("*"))


def assert_nothing_left(agent: AgentProcess, containerd: ContainerdServer) -> None:
    assert agent.ids() == []
    assert_stopped(agent, containerd)
    assert f"{ID}-snapshot" not in containerd.ctr("snapshots", "ls")
    assert list((agent.home / "containers").iterdir()) == []


@pytest.mark.parametrize(
    "point",
    [
        "storage.directory-made",
        "storage.before-rename",
        "containers.create-recorded",
        "containers.create-prepared",
        "storage.before-rename:2",
        "containers.create-stored",
    ],
)
def test_killed_while_it_creates(agent: AgentProcess, containerd: ContainerdServer, point: str) -> None:
    restarted(agent, point)
    assert not create(agent)
    assert agent.process
    assert agent.process.wait(120) == -signal.SIGKILL, "the fail point was not reached"
    agent.start()
    if agent.ids() == []:
        wait_until(lambda: not list((agent.home / "containers").iterdir()), 20, "the half of it is undone")
        assert f"{ID}-snapshot" not in containerd.ctr("snapshots", "ls")
        assert create(agent)
    assert agent.ids() == [ID]
    agent.cm("start", ID)
    assert_running_as_one(agent, containerd)
    agent.cm("remove", "-f", "-t", "1s", ID)
    assert_nothing_left(agent, containerd)


@pytest.mark.parametrize(
    "point",
    [
        "containers.start-fifos",
        "containers.start-attached",
        "containerd.record-made",
        "containerd.task-made",
        "containers.start-launched",
        "containers.start-told",
    ],
)
def test_killed_while_it_starts(agent: AgentProcess, containerd: ContainerdServer, point: str) -> None:
    assert create(agent)
    restarted(agent, point)
    dies(agent, "start", ID)
    agent.call("start", ID)  # refused where the container is found to run
    assert_running_as_one(agent, containerd)
    agent.cm("stop", ID)
    assert_stopped(agent, containerd)
    agent.cm("remove", ID)
    assert_nothing_left(agent, containerd)


@pytest.mark.parametrize(
    "point",
    [
        "containers.stop-recorded",
        "containers.stop-signalled",
        "containers.end-seen",
        "containers.end-recorded",
        "containers.end-deleted",
        "logs.before-final",
    ],
)
def test_killed_while_it_stops(agent: AgentProcess, containerd: ContainerdServer, point: str) -> None:
    assert create(agent)
    agent.cm("start", ID)
    speaks(agent)
    restarted(agent, point)
    dies(agent, "stop", ID)
    agent.call("stop", ID)  # refused where the container is found to have ended
    state = agent.wait_for(ID, status=3)
    assert (state["exit_code"], state["pid"]) == (143, -1)
    assert_stopped(agent, containerd)
    assert agent.logged(ID) == ["begun"]
    agent.cm("remove", ID)
    assert_nothing_left(agent, containerd)


@pytest.mark.parametrize(
    "point",
    [
        "containers.stop-signalled",
        "containers.remove-recorded",
        "containerd.task-destroyed",
        "containers.remove-runtime",
        "containers.remove-logs",
        "storage.delete-files",
        "storage.delete-record",
        "containers.remove-deleted",
    ],
)
def test_killed_while_it_removes(agent: AgentProcess, containerd: ContainerdServer, point: str) -> None:
    assert create(agent)
    agent.cm("start", ID)
    speaks(agent)
    restarted(agent, point)
    dies(agent, "remove", "-f", ID)
    agent.call("remove", "-f", ID)  # refused where the removal is found to be finished
    wait_until(lambda: not list((agent.home / "containers").iterdir()), 20, "the removal is finished")
    assert_nothing_left(agent, containerd)


@pytest.mark.parametrize("point", ["containers.update-applied", "containers.update-stored"])
def test_killed_while_it_updates(agent: AgentProcess, containerd: ContainerdServer, point: str) -> None:
    assert create(agent)
    agent.cm("start", ID)
    pid = agent.state(ID)["pid"]
    restarted(agent, point)
    dies(agent, "update", "-m", "64M", ID)
    agent.cm("update", "-m", "64M", ID)
    assert agent.get(ID)["host_config"]["resources"]["memory"] == "64M"
    assert agent.state(ID)["pid"] == pid


@pytest.mark.parametrize("point", ["containerd.exec-made", "containerd.exec-started"])
def test_killed_while_it_runs_a_command_in_a_container(
    agent: AgentProcess, containerd: ContainerdServer, point: str
) -> None:
    """The command of a health check: the next agent ends what the dead one left, and checks again."""
    seconds = str(random.randint(10**6, 10**9))  # others on this machine may run the same test
    flags = ("--health-cmd", f"sleep {seconds}", "--health-interval", "1s", "--health-timeout", "120s")
    command = ("/bin/sh", "-c", FOREVER)
    container_id = agent.cm("create", "--network", "host", "--rp", "no", *flags, IMAGE, *command)
    restarted(agent, point)
    agent.cm("start", container_id)
    assert agent.process
    assert agent.process.wait(120) == -signal.SIGKILL, "the fail point was not reached"
    left = programs("sleep", seconds)
    agent.start()
    wait_until(lambda: programs("sleep", seconds) not in ([], left), 30, "a check runs")
    wait_until(lambda: len(programs("sleep", seconds)) == 1, 10, "and no other")
    assert programs("sleep", seconds) != left
    assert len(list((agent.run / "exec").iterdir())) == 1
    agent.cm("remove", "-f", container_id)
    wait_until(lambda: not list((agent.run / "exec").iterdir()), 10, "nothing is noted any more")
    assert not programs("sleep", seconds)
    assert_stopped(agent, containerd)


def programs(*command: str) -> list[str]:
    """Pids of the processes with this command line."""
    wanted = "\0".join(command).encode() + b"\0"
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes() == wanted:
                found.append(file.parts[2])
    return found
