# SPDX-License-Identifier: Apache-2.0
"""A hundred containers at once, and what one start costs beside containerd's own client.

The start is compared with `ctr run`, which makes snapshot, record and task and starts it, as pycm's Create and Start do together,
with a seccomp profile as pycm's has. Both in turns. What ctr needs to be loaded and to connect, which `ctr version` shows, is taken off.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from agent_cost import IMAGE, pid_of, restart, running_agent
from crowd import IDLE, Crowd, described, listing, percentile
from figures import Figure
from images import Image, base_layer, layer
from processes import memory_kib, settle
from registry_server import RegistryServer

from pycm.cli.agent import Agent

if TYPE_CHECKING:
    import argparse

    from agent_process import AgentProcess

CONTAINERS = 100
ROUNDS = 25
REST = 5.0
#: Bytes of a layer of the image that is pulled, which cannot be made smaller, and their number.
LAYER, LAYERS = 96 << 20, 2


def run(_: argparse.Namespace) -> list[Figure]:
    with running_agent() as (agent, _broker):
        figures = [start_against_ctr(agent)]
        return figures + at_once(agent)


def start_against_ctr(agent: AgentProcess) -> Figure:
    client = Agent(str(agent.socket))
    server = agent.containerd
    ratios, own, theirs = [], [], []
    for number in range(ROUNDS):
        own.append(timed(lambda: own_start(client, f"own{number}")))  # noqa: B023  called at once
        name = f"ctr{number}"
        ctr = ("run", "-d", "--null-io", "--net-host", "--seccomp", IMAGE.name, name, *IDLE)
        theirs.append(timed(lambda: server.ctr(*ctr)) - timed(lambda: server.ctr("version")))  # noqa: B023
        ratios.append(own[-1] / theirs[-1])
        client.remove(f"own{number}", force=True)
        server.ctr("tasks", "delete", "--force", name)
        server.ctr("containers", "delete", name)
    detail = f"{statistics.median(own) * 1000:.0f} ms against {statistics.median(theirs) * 1000:.0f} ms, in turns, {ROUNDS} each"
    text = "create and start of a container, against ctr's"
    return Figure("start-ctr", text, statistics.median(ratios), "times", 1.2, detail=detail)


def own_start(client: Agent, container_id: str) -> None:
    client.create(described(container_id, IMAGE.name))
    client.start(container_id)


def timed(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def at_once(agent: AgentProcess) -> list[Figure]:
    crowd = Crowd(str(agent.socket), IMAGE.name, CONTAINERS)
    crowd.create()
    with listing(crowd.socket) as busy:
        crowd.start()
    client = Agent(crowd.socket)
    assert sum(one["state"]["running"] for one in client.list_containers()) == CONTAINERS
    sampling = timed(lambda: agent.pycm("stats", "--no-stream"))
    settle(REST)
    with listing(crowd.socket) as quiet:
        settle(REST)
    pulling, worker = during_pull(agent, client)
    restart(agent)
    settle(REST)
    pss, uss = memory_kib(pid_of(agent))
    crowd.stop()
    crowd.remove()
    assert not Agent(crowd.socket).list_containers()
    took = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in crowd.took.items())
    return [
        Figure("crowd-pss", f"PSS of the agent with {CONTAINERS} containers", pss / 1024, "MiB"),
        Figure("crowd-uss", "USS beside it", uss / 1024, "MiB"),
        Figure("crowd-start", f"{CONTAINERS} starts at once", crowd.took["start"], "s", detail=took),
        latency(
            "list-pull",
            f"List with {CONTAINERS} containers while an image is pulled, 99th percentile",
            pulling,
            20,
        ),
        Figure(
            "pull-pss",
            f"PSS of the pull worker, layers of {LAYER >> 20} MiB, the highest",
            worker / 1024,
            "MiB",
            45,
        ),
        latency("list-quiet", "the same without a pull", quiet),
        latency("list-starts", "the same while all of them are started at once", busy),
        Figure("crowd-stats", "pycm stats --no-stream of all", sampling, "s"),
    ]


def during_pull(agent: AgentProcess, client: Agent) -> tuple[list[float], int]:
    """Seconds of each List while a container is created from an image that has to be fetched; the worker's highest PSS in KiB."""
    layers = [base_layer(), *(layer({f"data{n}": os.urandom(LAYER)}) for n in range(LAYERS))]
    with (
        tempfile.TemporaryDirectory(prefix="pycm-bench-") as directory,
        RegistryServer(Path(directory)) as registry,
    ):
        reference = registry.push(Image(layers=layers), "bench", "1.0")
        with listing(str(agent.socket)) as taken, ThreadPoolExecutor(1) as thread:
            pull = thread.submit(client.create, described("pulled", reference))
            highest = 0
            while not pull.done():
                highest = max(highest, *map(pss_of, workers(pid_of(agent))), 0)
                settle(0.02)
            pull.result()
        client.remove("pulled", force=True)
    assert highest, "a worker was seen"
    return taken, highest


def workers(pid: int) -> list[int]:
    """Pids of the processes that fetch images for the agent; other children come and go meanwhile."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children = path.read_text().split()
            for child in children:
                with contextlib.suppress(OSError):
                    if b"pycm.registry" in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(int(child))
    return found


def pss_of(pid: int) -> int:
    try:
        return memory_kib(pid)[0]
    except (OSError, KeyError):  # it has just ended
        return 0


def latency(name: str, text: str, taken: list[float], limit: float | None = None) -> Figure:
    detail = f"median {percentile(taken, 0.5) * 1000:.1f} ms, longest {max(taken) * 1000:.0f} ms, {len(taken)} calls"
    return Figure(name, text, percentile(taken, 0.99) * 1000, "ms", limit, detail=detail)
