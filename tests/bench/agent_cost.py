# SPDX-License-Identifier: Apache-2.0
"""The idle agent with ten running containers, MQTT, twin and API on: memory, wake-ups, disk writes, growth, and its start."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent_process import AgentProcess, unit_environment
from containerd_server import private_containerd, wait_until
from figures import Figure
from images import Image, write_archive
from mosquitto_server import MosquittoServer
from processes import cpu_of_command, cpu_seconds, memory_kib, settle, wake_ups, written_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

CONTAINERS = 10
MORE = 20  # further ones, for the growth
REST = 10.0  # seconds after the last work until the agent counts as idle
SPAN = 30.0  # seconds of idleness that are measured
STARTS = 5
ANSWER = 60.0
IMAGE = Image()
#: What an HTTP/2 client says first; a server that answers it with its settings accepts calls.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
#: The libraries of the agent, imported in a bare Python, are what its start is compared with.
LIBRARIES = (
    "import asyncio, concurrent.futures, json, logging, "
    "grpclib.client, grpclib.server, google.protobuf.descriptor_pb2, google.protobuf.any_pb2, paho.mqtt.client"
)
EDGE_TOPIC = "edge/thing/response"
EDGE_DETAILS = '{"deviceId":"bench:gateway:device","tenantId":"bench"}'
THING_TOPIC = "e/bench/bench:gateway:device:edge:containers"


def run(_: argparse.Namespace) -> list[Figure]:
    with running_agent() as (agent, _broker):
        for number in range(CONTAINERS):
            agent.run_container(IMAGE.name, "/bin/sleep", "86400", name=f"idle{number}")
        restart(agent)  # memory as of an agent that has adopted its containers, not of one that made them
        figures = idle(agent)
        figures.append(growth(agent))
        for container_id in agent.ids()[CONTAINERS:]:
            agent.cm("remove", "-f", container_id)
        figures += starts(agent)
    return figures


@contextlib.contextmanager
def running_agent() -> Iterator[tuple[AgentProcess, MosquittoServer]]:
    """An agent in a temporary directory with a private containerd and mosquitto, its thing known to it."""
    with (
        tempfile.TemporaryDirectory(prefix="pycm-bench-") as directory,
        private_containerd() as server,
        MosquittoServer(Path(directory)) as broker,
    ):
        archive = write_archive(Path(directory) / "image.tar", IMAGE)
        server.ctr("images", "import", archive)
        broker.publish(EDGE_TOPIC, EDGE_DETAILS, "--retain")  # so that every start of the agent finds them
        agent = AgentProcess(Path(directory), server, broker)
        agent.config.write_text(agent.config.read_text().replace('"DEBUG"', '"INFO"'))
        with agent:
            wait_until(lambda: f"'{THING_TOPIC}'" in broker_log(broker), ANSWER, "the twin speaks")
            yield agent, broker


def broker_log(broker: MosquittoServer) -> str:
    return "\n".join(broker.log_lines())


def restart(agent: AgentProcess) -> None:
    agent.end()
    agent.start()


def pid_of(agent: AgentProcess) -> int:
    assert agent.process
    return agent.process.pid


def idle(agent: AgentProcess) -> list[Figure]:
    settle(REST)
    pid = pid_of(agent)
    switches, written, cpu, began = wake_ups(pid), written_bytes(pid), cpu_seconds([pid]), time.monotonic()
    settle(SPAN)
    span = time.monotonic() - began
    switches, written, cpu = wake_ups(pid) - switches, written_bytes(pid) - written, cpu_seconds([pid]) - cpu
    pss, uss = memory_kib(pid)
    return [
        Figure("pss", f"PSS of the idle agent, {CONTAINERS} containers", pss / 1024, "MiB", 32),
        Figure("uss", "USS beside it", uss / 1024, "MiB"),
        Figure("wake-ups", "wake-ups of the idle agent a second", switches / span, "", 0.3),
        Figure("idle-cpu", "CPU of the idle agent a second", cpu / span * 1e6, "us"),
        Figure("disk-writes", f"disk writes of the idle agent in {SPAN:.0f} s", written, "bytes", 0),
    ]


def growth(agent: AgentProcess) -> Figure:
    """Private memory: that of libraries does not depend on the number of containers."""
    before = adopted_memory(agent)
    for number in range(MORE):
        agent.run_container(IMAGE.name, "/bin/sleep", "86400", name=f"more{number}")
    after = adopted_memory(agent)
    each = (after - before) / MORE
    detail = f"{before / 1024:.1f} MiB with {CONTAINERS}, {after / 1024:.1f} MiB with {CONTAINERS + MORE}"
    return Figure("growth", "growth of USS per further container", max(each, 0), "KiB", 64, detail=detail)


def adopted_memory(agent: AgentProcess) -> float:
    """USS once all containers are adopted; the median of some starts, since no two have the same heap."""
    found = []
    for _ in range(STARTS):
        restart(agent)
        settle(REST / 2)
        found.append(memory_kib(pid_of(agent))[1])
    return statistics.median(found)


def starts(agent: AgentProcess) -> list[Figure]:
    """After kill -9: until the API answers, with all containers adopted; in turns with the bare import."""
    imports = [sys.executable, "-c", LIBRARIES]
    ratios, own = [], []
    for _ in range(STARTS):
        agent.kill()
        began = time.monotonic()
        launch(agent)
        own.append(time.monotonic() - began)
        began = time.monotonic()
        cpu_of_command(imports)
        ratios.append(own[-1] / (time.monotonic() - began))
    assert len(agent.ids()) == CONTAINERS
    text = "start to API answering, against importing the libraries"
    detail = f"{statistics.median(own) * 1000:.0f} ms"
    return [Figure("start", text, statistics.median(ratios), "times", 2, detail=detail)]


def launch(agent: AgentProcess) -> None:
    """Start the agent and return the moment that it answers."""
    agent.socket.unlink(missing_ok=True)
    with open(agent.log, "ab") as log:
        command = [sys.executable, "-m", "pycm", "daemon", "--cfg-file", str(agent.config)]
        environment = {**os.environ, **unit_environment()}
        agent.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    deadline = time.monotonic() + ANSWER
    while not answers(agent.socket):
        assert time.monotonic() < deadline, f"the agent does not answer: {agent.text()[-500:]}"
        assert agent.process.poll() is None, f"the agent ended: {agent.text()[-500:]}"
        time.sleep(0.002)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(ANSWER)
        try:
            peer.connect(str(path))
        except OSError:
            return False
        peer.sendall(PREFACE)
        return bool(peer.recv(9))
