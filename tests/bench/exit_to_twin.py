# SPDX-License-Identifier: Apache-2.0
"""From a container's exit to the message of it at a local broker: processes are killed, and the twin's messages waited for.

The time begins right before the kill, so that the kernel's and containerd's part is counted too.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

from agent_cost import IMAGE, running_agent
from connector import Connector, Message
from figures import Figure

if TYPE_CHECKING:
    import argparse

CONTAINERS = 10
EXITS = 200
LIMIT = 50.0  # ms


def run(_: argparse.Namespace) -> list[Figure]:
    with running_agent() as (agent, broker), Connector(broker.port, answers=False, follows=False) as cloud:
        ids = [
            agent.run_container(IMAGE.name, "/bin/sleep", "86400", name=f"exit{n}") for n in range(CONTAINERS)
        ]
        pids = {one: int(agent.state(one)["pid"]) for one in ids}
        times = []
        for number in range(EXITS):
            one = ids[number % CONTAINERS]
            began = time.monotonic()
            os.kill(pids[one], signal.SIGKILL)
            told = cloud.wait(lambda message, one=one: state_of(message, one) == "EXITED", "the exit is told")
            times.append((told.at - began) * 1000)
            agent.cm("start", one)
            pids[one] = int(agent.state(one)["pid"])
    times.sort()
    detail = f"median {statistics.median(times):.1f} ms, longest {times[-1]:.1f} ms of {EXITS} exits"
    text = "container exit to twin message at a local broker, 99th percentile"
    return [Figure("exit-to-twin", text, times[int(len(times) * 0.99) - 1], "ms", LIMIT, detail=detail)]


def state_of(message: Message, container_id: str) -> str:
    """The status that a message tells of the container; "" if it tells none."""
    if message.payload.get("path") != f"/features/Container:{container_id}/properties/status/state":
        return ""
    return str(message.payload["value"]["status"])
