# SPDX-License-Identifier: Apache-2.0
"""Private memory of the agent over a thousand restarts of one container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_cost import IMAGE, pid_of, running_agent
from crowd import described
from figures import Figure
from processes import memory_kib, settle

from pycm.api.calls import Agent

if TYPE_CHECKING:
    import argparse

    from agent_process import AgentProcess

#: The first ones fill caches and pools once.
WARM_UP, RESTARTS = 200, 1000
REST = 5.0


def run(_: argparse.Namespace) -> list[Figure]:
    with running_agent() as (agent, _broker):
        client = Agent(str(agent.socket))
        client.create(described("again", IMAGE.name))
        client.start("again")
        before = after_restarts(agent, client, WARM_UP)
        after = after_restarts(agent, client, RESTARTS)
        client.close()
    detail = f"{before / 1024:.1f} MiB before, {after / 1024:.1f} MiB after"
    text = f"growth of USS over {RESTARTS} restarts of a container"
    return [Figure("restarts", text, max(after - before, 0), "KiB", 256, detail=detail)]


def after_restarts(agent: AgentProcess, client: Agent, count: int) -> int:
    for _ in range(count):
        client.restart("again")
    settle(REST)
    return memory_kib(pid_of(agent))[1]
