# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/qemu.md that ask for metrics, run as the page shows them; only the port is that of the test's broker."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import wait_until
from images import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_server import ContainerdServer
    from mosquitto_server import MosquittoServer

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "qemu.md"
THING = "dummy-namespace:dummy-gateway:dummy-device-id:edge:containers"
EVENTS = f"e/dummy-tenant-id/{THING}"
PATIENCE = 30


class Typed:
    """What a user types, in a shell of its own."""

    def __init__(self, block: str, port: int, output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                ["bash", "-ec", block.replace("-p 1883", f"-p {port}")],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """End the shell, and mosquitto_sub that it left in the background."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def snapshots(self) -> list[Any]:
        lines = [line.partition(" ") for line in self.text().split("\n")[:-1]]
        events = [json.loads(payload) for topic, _, payload in lines if topic == EVENTS]
        return [one["value"]["snapshot"] for one in events if one["path"].endswith("/outbox/messages/data")]


@pytest.fixture
def block() -> str:
    (found,) = [
        text for text in re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL) if "mosquitto_" in text
    ]
    return found


@pytest.fixture
def typed(tmp_path: Path, broker: MosquittoServer, block: str) -> Iterator[Typed]:
    shell = Typed(block, broker.port, tmp_path / "typed.txt")
    try:
        yield shell
    finally:
        shell.close()


def expect_metrics(typed: Typed, agent: AgentProcess) -> None:
    assert typed.process.wait(PATIENCE) == 0, typed.text()
    container = agent.run_container(IMAGE, "/bin/sleep", "1000")
    wait_until(
        lambda: any(
            entry["originator"] == f"Container:{container}"
            for all_of in typed.snapshots()
            for entry in all_of
        ),
        PATIENCE,
        f"the page's commands show metrics:\n{typed.text()}",
    )


@pytest.fixture
def stopped(tmp_path: Path, containerd: ContainerdServer, broker: MosquittoServer) -> Iterator[AgentProcess]:
    """An agent that has asked for its device and runs no further until it gets SIGCONT."""
    asked = broker.subscribe("edge/thing/request", "-C", "1")
    with AgentProcess(tmp_path, containerd, broker) as agent:
        assert agent.process
        asked.communicate(timeout=PATIENCE)
        agent.process.send_signal(signal.SIGSTOP)
        try:
            yield agent
        finally:
            agent.process.send_signal(signal.SIGCONT)


def wait_for_first_request(typed: Typed) -> None:
    wait_until(lambda: f"command//{THING}/req/1/request" in typed.text(), PATIENCE, "metrics are requested")


def test_qemu_page_commands_show_metrics_of_slow_agent(stopped: AgentProcess, typed: Typed) -> None:
    """As in an emulated guest: the agent reads the device only after the broker has dropped the first request."""
    assert stopped.process
    wait_for_first_request(typed)
    stopped.process.send_signal(signal.SIGCONT)
    expect_metrics(typed, stopped)


def test_qemu_page_commands_show_metrics_of_agent_that_starts_later(
    typed: Typed, tmp_path: Path, containerd: ContainerdServer, broker: MosquittoServer
) -> None:
    wait_for_first_request(typed)
    with AgentProcess(tmp_path, containerd, broker) as agent:
        expect_metrics(typed, agent)
