# SPDX-License-Identifier: Apache-2.0
"""Containers that should run come before the broker, whatever it does."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import wait_until
from images import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containerd_server import ContainerdServer

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"


class MuteBroker:
    """Accepts and never answers. `seen`: what containerd's tasks were at each connection, the moment it came."""

    def __init__(self, containerd: ContainerdServer) -> None:
        self.seen: list[list[str]] = []
        self._containerd = containerd
        self._peers: list[socket.socket] = []
        self._listener = socket.create_server(("localhost", 0))
        self.url = f"tcp://localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._peers.append(self._listener.accept()[0])
                tasks = self._containerd.ctr("tasks", "ls").splitlines()[1:]
                self.seen.append([line.split()[2] for line in tasks])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for peer in self._peers:
            peer.close()


@pytest.fixture
def mute(containerd: ContainerdServer) -> Iterator[MuteBroker]:
    with contextlib.closing(MuteBroker(containerd)) as broker:
        yield broker


def power_cycle(agent: AgentProcess) -> None:
    """The agent dies, and then its containers, as in a power cut."""
    agent.kill()
    for container_id in agent.containerd.ctr("tasks", "ls", "-q").split():
        agent.containerd.ctr("tasks", "kill", "-s", "KILL", container_id)
    wait_until(lambda: "RUNNING" not in agent.containerd.ctr("tasks", "ls"), 20, "they end")
    agent.start()


def test_containers_run_before_the_broker_is_connected(
    tmp_path: Path, containerd: ContainerdServer, mute: MuteBroker
) -> None:
    broker: Any = mute
    with AgentProcess(tmp_path, containerd, broker) as agent:
        for name in ("a", "b", "c"):
            agent.cm(
                "start", agent.cm("create", "--network", "host", "-n", name, IMAGE, "/bin/sh", "-c", FOREVER)
            )
        wait_until(lambda: bool(mute.seen), 60, "the broker is connected")
        mute.seen.clear()
        power_cycle(agent)
        wait_until(lambda: bool(mute.seen), 60, "the broker is connected again")
        assert mute.seen[0] == ["RUNNING"] * 3
        assert agent.end(signal.SIGTERM) == 0


def test_containers_run_where_no_broker_is(tmp_path: Path, containerd: ContainerdServer) -> None:
    broker: Any = SimpleNamespace(url="tcp://localhost:1")
    with AgentProcess(tmp_path, containerd, broker) as agent:
        container_id = agent.cm("create", "--network", "host", IMAGE, "/bin/sh", "-c", FOREVER)
        agent.cm("start", container_id)
        pid = agent.state(container_id)["pid"]
        before = len(agent.text())
        power_cycle(agent)
        wait_until(lambda: "localhost:1" in agent.text()[before:], 60, "the broker is tried")
        text = agent.text()[before:]
        assert text.index(f"container {container_id}: started") < text.index("localhost:1"), text
        assert agent.state(container_id)["pid"] not in (pid, -1)
