# SPDX-License-Identifier: Apache-2.0
"""containerd is killed under twenty containers, three of them end, and it comes back: until the agent's states are right.

The time begins when containerd answers again. One of the three is to stay ended, two are to be running again, counted.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent_cost import IMAGE, running_agent
from containerd_server import wait_until
from crowd import described
from figures import Figure

from pycm.cli.agent import Agent
from pycm.model.container import RestartPolicy
from pycm.model.frozen import replace
from pycm.model.states import Status

if TYPE_CHECKING:
    import argparse

    from agent_process import AgentProcess

CONTAINERS = 20
POLICIES = ("no", "on-failure", "unless-stopped")
ROUNDS = 5
LIMIT = 5.0
ANSWER = 60.0


def run(_: argparse.Namespace) -> list[Figure]:
    with running_agent() as (agent, _broker):
        client = Agent(str(agent.socket))
        for number in range(CONTAINERS):
            container = described(f"back{number}", IMAGE.name)
            assert container.host_config is not None
            policy = RestartPolicy(type=POLICIES[number] if number < len(POLICIES) else "no")
            client.create(
                replace(container, host_config=replace(container.host_config, restart_policy=policy))
            )
            client.start(container.id)
        taken = [one_return(agent, client) for _ in range(ROUNDS)]
    detail = f"median {statistics.median(taken):.2f} s of {ROUNDS}"
    text = (
        f"containerd back under {CONTAINERS} containers, 3 of which ended, to all states right: the longest"
    )
    return [Figure("containerd-back", text, max(taken), "s", LIMIT, detail=detail)]


def one_return(agent: AgentProcess, client: Agent) -> float:
    ended = [f"back{number}" for number in range(len(POLICIES))]
    found = {one["container_id"]: one for one in client.list_containers()}
    pids = {name: one["state"]["pid"] for name, one in found.items()}
    counts = {name: one["restart_count"] for name, one in found.items()}
    agent.containerd.kill()
    for one in ended:
        os.kill(pids[one], signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pids[one]}").exists(), ANSWER, "the process ends")  # noqa: B023
    agent.containerd.start()
    began = time.monotonic()
    wait_until(lambda: all_right(client, pids, counts), ANSWER, "all states are right")
    taken = time.monotonic() - began
    client.start(ended[0])
    return taken


def all_right(client: Agent, pids: dict[str, int], counts: dict[str, int]) -> bool:
    for number, name in enumerate(pids):
        container = client.get(name)
        assert container is not None
        state = container["state"]
        if number == 0:
            right = (state["status"], state["exit_code"]) == (Status.EXITED, 128 + signal.SIGKILL)
        elif number < len(POLICIES):
            right = state["running"] and state["pid"] != pids[name]
            right = right and container["restart_count"] == counts[name] + 1
        else:
            right = state["running"] and state["pid"] == pids[name]
        if not right:
            return False
    return True
