# SPDX-License-Identifier: Apache-2.0
"""Many containers of one agent, driven at the same time: every call on a connection and in a thread of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pycm.cli.agent import Agent
from pycm.model.container import Container, ContainerConfiguration, HostConfig, Image, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Ends at once on SIGTERM, and needs no CPU.
IDLE = ("/bin/sh", "-c", "trap 'exit 143' TERM; sleep 86400 & wait")
#: A client in a process of its own, which lists again and again until its input ends.
LISTER = """
import json, os, select, sys, time
from pycm.cli.client import Client
client = Client(sys.argv[1])
client.call("GET", "/v1/version")
taken = []
while not select.select([0], [], [], 0.005)[0]:
    began = time.perf_counter()
    client.call("GET", "/v1/containers")
    taken.append(time.perf_counter() - began)
print(json.dumps(taken))
"""


def described(container_id: str, image: str, **host: object) -> Container:
    policy = RestartPolicy(type="no")
    return Container(
        id=container_id,
        name=container_id,
        image=Image(name=image),
        host_config=HostConfig(network_mode="host", restart_policy=policy, **host),  # type: ignore[arg-type]
        config=ContainerConfiguration(cmd=IDLE),
    )


@dataclass
class Crowd:
    """*count* containers; `every` makes one call for each of them, all at the same time."""

    socket: str
    image: str
    count: int
    #: Seconds that all calls of one kind took together, by name.
    took: dict[str, float] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [f"many{number}" for number in range(self.count)]

    def every(self, what: str, call: Callable[[Agent, str], object]) -> None:
        def one(container_id: str) -> None:
            call(Agent(self.socket, timeout=120), container_id)

        began = time.monotonic()
        with ThreadPoolExecutor(self.count) as threads:
            list(threads.map(one, self.ids))
        self.took[what] = time.monotonic() - began

    def create(self) -> None:
        self.every("create", lambda agent, one: agent.create(described(one, self.image)))

    def start(self) -> None:
        self.every("start", lambda agent, one: agent.start(one))

    def stop(self) -> None:
        self.every("stop", lambda agent, one: agent.stop(one, timeout=60, force=False, signal=""))

    def remove(self) -> None:
        self.every("remove", lambda agent, one: agent.remove(one, force=False))


@contextmanager
def listing(socket: str) -> Iterator[list[float]]:
    """While the block runs, List is called again and again; afterwards the list has the seconds that each took."""
    taken: list[float] = []
    command = [sys.executable, "-c", LISTER, socket]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield taken
        output, _ = process.communicate("\n")
        assert process.returncode == 0
        taken += json.loads(output)
    finally:
        process.kill()
        process.wait()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, int(len(values) * share + 0.5) - 1)]
