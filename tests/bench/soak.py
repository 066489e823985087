# SPDX-License-Identifier: Apache-2.0
"""Containers live all they can live, over and over: what an operation leaves in the agent's memory, and what is left at the end.

    soak.py (--operations N | --minutes N) --json FILE     runs in the network of its caller: see `in_own_network`

Three clients at once create, start, watch, command, update, stop and remove containers, on the bridge and without it, pull images and
remove them; the cloud's side starts and stops over MQTT, and takes metrics meanwhile. Every call counts as one operation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "integration")]  # fmt: skip

from agent_cost import IMAGE, pid_of, running_agent
from bridge_world import port
from crowd import described
from figures import BenchmarkError, Figure
from images import Image, layer
from processes import memory_kib, settle, shims
from registry_server import RegistryServer

from pycm.api.protocol import STDIN
from pycm.cli.agent import Agent
from pycm.cli.client import TimeExpiredError
from pycm.errors import PycmError
from pycm.model.container import PortMapping, Resources, RestartPolicy, UpdateOptions
from pycm.model.frozen import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent_process import AgentProcess
    from mosquitto_server import MosquittoServer

CLIENTS = 3
#: Operations of the budget, and those before them, which fill caches and pools once.
OPERATIONS, WARM_UP = 5000, 3000
#: Bytes that an operation may leave.
LIMIT = 64
#: Seconds between two looks at the agent in a soak, and for it to come to rest before each.
SPAN, REST = 180.0, 8.0
THING = "bench:gateway:device:edge:containers"
#: How often each operation comes in a container's life, which has twelve of these between its start and its stop.
MIX = {
    "exec": 3, "logs": 3, "list": 3, "get": 2, "update": 2, "restart": 2, "pause": 1, "rename": 1, "stats": 1, "leave": 1, "wait": 1,
    "pull": 1, "cloud": 1,
}  # fmt: skip


def run(options: argparse.Namespace) -> list[Figure]:
    """Growth over the budget's number of operations, or over `options.soak` minutes."""
    if options.soak:
        return in_own_network("--minutes", f"{options.soak:g}")
    return in_own_network("--operations", str(OPERATIONS))


def in_own_network(*words: str) -> list[Figure]:
    """Figures of this file as a program in a network namespace of its own, where its bridge and rules are in nobody's way."""
    with tempfile.TemporaryDirectory(prefix="pycm-soak-") as directory:
        result = Path(directory) / "figures.json"
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, __file__, *words, "--json", str(result)]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            raise BenchmarkError(f"{' '.join(words)}: see above")
        return [Figure(**row) for row in json.loads(result.read_text())]


@dataclass
class Tally:
    """What all clients together have done."""

    operations: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, error: PycmError | None) -> None:
        with self.lock:
            self.operations += 1
            if error is not None:
                self.refused[f"{name}: {re.sub('soak[0-9]+-[0-9]+', 'ID', str(error))[:120]}"] += 1


class Client:
    """One connection, and one container after the other that lives through it."""

    def __init__(self, agent: AgentProcess, broker: MosquittoServer, reference: str, number: int, tally: Tally) -> None:  # fmt: skip
        self.socket = str(agent.socket)
        self.api = Agent(self.socket, timeout=120)
        self.broker, self.reference, self.number, self.tally = broker, reference, number, tally
        self.random = random.Random(number)
        self.lives = 0
        self.id = ""

    def do(self, name: str, call: Callable[[], object]) -> None:
        """One operation. A refusal is counted: two clients may be in each other's way, with one image for instance."""
        error = None
        try:
            call()
        except PycmError as caught:
            error = caught
        self.tally.count(name, error)

    def live(self, until: Callable[[], bool]) -> None:
        """Whole lives, until *until* holds after one of them."""
        while not until():
            self.lives += 1
            self.id = f"soak{self.number}-{self.lives}"
            self.do("create", self.create)
            self.do("start", lambda: self.api.start(self.id))
            for name in self.random.choices(tuple(MIX), weights=tuple(MIX.values()), k=12):
                self.do(name, getattr(self, name))
            self.do("stop", lambda: self.api.stop(self.id, timeout=10, force=True, signal=""))
            self.do("remove", lambda: self.api.remove(self.id, force=True))

    def create(self) -> None:
        """Every second one on the bridge, every third one soon ends with an error and is restarted."""
        container = described(self.id, IMAGE.name)
        host = container.host_config
        assert host
        assert container.config
        if self.lives % 2:
            published = (PortMapping(**port(20000 + self.number)),)
            host = replace(host, network_mode="bridge", port_mappings=published)
        if self.lives % 3 == 0:
            host = replace(host, restart_policy=RestartPolicy(type="on-failure", maximum_retry_count=3))
            container = replace(container, config=replace(container.config, cmd=("/bin/sh", "-c", "echo out; echo err >&2; exit 3")))  # fmt: skip
        self.api.create(replace(container, host_config=host))

    # ── operations of the mix ──

    def exec(self) -> None:
        with contextlib.closing(self.api.exec(self.id, {"command": ["/bin/echo", "hello"]})) as channel:
            channel.write(STDIN)
            while not channel.done:
                channel.receive()
            channel.take()

    def logs(self) -> None:
        list(self.api.logs(self.id, 20))

    def list(self) -> None:
        self.api.list_containers()

    def get(self) -> None:
        self.api.get(self.id)

    def update(self) -> None:
        limits = Resources(memory=f"{self.random.randrange(16, 64)}M", memory_swap="-1")
        self.api.update(self.id, UpdateOptions(resources=limits))

    def restart(self) -> None:
        self.api.act(self.id, "restart")

    def pause(self) -> None:
        self.api.act(self.id, "pause")
        self.api.act(self.id, "unpause")

    def rename(self) -> None:
        self.api.rename(self.id, f"{self.id}-{self.random.randrange(1000)}")

    def stats(self) -> None:
        list(self.api.stats([self.id], interval_ms=500, samples=1))

    def leave(self) -> None:
        """A client that watches the output and goes away."""
        self.api.attach(self.id, stdin=False).close()

    def wait(self) -> None:
        """For what does not come in time."""
        with contextlib.suppress(TimeExpiredError):
            self.api.wait(self.id, "removed", seconds=0.05)

    def pull(self) -> None:
        for _ in self.api.pull_image(self.reference):
            pass
        self.api.remove_image(self.reference)

    def cloud(self) -> None:
        """Stop and start over MQTT."""
        for operation in ("stop", "start"):
            self.broker.publish(*command(f"Container:{self.id}", operation))


def command(feature: str, operation: str, value: object = None) -> tuple[str, str]:
    """Topic and payload of a command of the cloud's."""
    envelope = {
        "topic": "bench/gateway:device:edge:containers/things/live/messages/" + operation,
        "headers": {"response-required": True, "content-type": "application/json", "correlation-id": "soak"},
        "path": f"/features/{feature}/inbox/messages/{operation}",
        "value": value,
    }
    return f"command//{THING}/req/soak/{operation}", json.dumps(envelope)


class Soak:
    """The agent, its surroundings and its clients; looks at the agent only while no operation is under way."""

    def __init__(self, agent: AgentProcess, broker: MosquittoServer, reference: str) -> None:
        self.agent, self.broker = agent, broker
        self.tally = Tally()
        self.clients = [Client(agent, broker, reference, number, self.tally) for number in range(CLIENTS)]
        self.seen: list[tuple[int, int, int]] = []

    def work(self, until: Callable[[], bool]) -> None:
        with ThreadPoolExecutor(CLIENTS) as threads:
            for done in [threads.submit(client.live, until) for client in self.clients]:
                done.result()
        settle(REST)
        pid = pid_of(self.agent)
        look = self.tally.operations, memory_kib(pid)[1], len(os.listdir(f"/proc/{pid}/fd"))
        self.seen.append(look)
        print(f"  {look[0]} operations: USS {look[1]} KiB, {look[2]} open files", file=sys.stderr, flush=True)

    def operations(self, number: int) -> None:
        end = self.tally.operations + number
        self.work(lambda: self.tally.operations >= end)

    def seconds(self, span: float) -> None:
        end = time.monotonic() + span
        self.work(lambda: time.monotonic() >= end)

    def figures(self) -> list[Figure]:
        """Between the first look, after the warm-up, and the last one."""
        (began, before, opened), (ended, after, open_now) = self.seen[0], self.seen[-1]
        each = max(after - before, 0) * 1024 / (ended - began)
        limit = (
            LIMIT if ended - began >= OPERATIONS else None
        )  # a step of the heap weighs too much in a shorter run
        steps = ", ".join(f"{uss}" for _, uss, _ in self.seen)
        text = f"growth of USS per operation, over {ended - began} mixed operations"
        refused = "; ".join(f"{count} {what}" for what, count in self.tally.refused.most_common(6)) or "none"
        return [
            Figure("operation-growth", text, each, "bytes", limit, detail=f"USS in KiB: {steps}; refused: {refused}"),
            Figure("operation-files", "open files more after them", max(open_now - opened, 0), "", 0),
        ]  # fmt: skip

    def left_over(self) -> list[str]:
        """What is still there of the containers, all of which have been removed."""
        agent, server = self.agent, self.agent.containerd
        snapshots = [line for line in server.ctr("snapshots", "ls").splitlines() if line.endswith("Active")]
        places = (agent.run / "fifo", agent.run / "exec", agent.run / "netns", agent.home / "containers")
        return [
            *(f"container {name}" for name in agent.ids()),
            *(f"record {name}" for name in server.ctr("containers", "ls", "-q").split()),
            *(f"task {name}" for name in server.ctr("tasks", "ls", "-q").split()),
            *(f"snapshot {line.split()[0]}" for line in snapshots),
            *(f"lease {name}" for name in server.ctr("leases", "ls", "-q").split() if name != "kanto-cm.lease"),
            *(f"shim {pid}" for pid in shims(server.namespace)),
            *(f"child {pid}" for pid in children(pid_of(agent))),
            *(f"file {path}" for place in places for path in place.rglob("*")),
            *(f"link {line.split()[0]}" for line in output("ip", "-brief", "link") if line.startswith("veth")),
            *(f"rule {line}" for line in output("iptables", "-t", "nat", "-S") if "soak" in line),
        ]  # fmt: skip


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def output(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@contextlib.contextmanager
def soaking() -> Iterator[Soak]:
    with (
        running_agent() as (agent, broker),
        tempfile.TemporaryDirectory() as directory,
        RegistryServer(Path(directory)) as registry,
    ):
        reference = registry.push(Image(layers=[layer({"soak": bytes(1 << 20)})]), "soak", "1")
        broker.publish(*command("Metrics", "request", {"frequency": "5s"}))
        yield Soak(agent, broker, reference)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    with soaking() as soak:
        soak.operations(WARM_UP)
        if options.operations:
            soak.operations(options.operations)
        while time.monotonic() < end:
            soak.seconds(min(SPAN, end - time.monotonic()))
        figures = soak.figures()
        left = soak.left_over()
        figures.append(Figure("left-over", "left over of removed containers", len(left), "", 0, detail="; ".join(left[:20])))  # fmt: skip
    options.json.write_text(json.dumps([asdict(figure) for figure in figures]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
