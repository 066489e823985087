# SPDX-License-Identifier: Apache-2.0
"""CPU of the command line against a Python that does nothing, in turns, median of the ratios."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from agent_cost import IMAGE, running_agent
from figures import Figure
from processes import cpu_of_command

if TYPE_CHECKING:
    import argparse

RUNS = 21
NOTHING = [sys.executable, "-c", "pass"]
#: What the console script does, without depending on where it is installed.
PYCM = [sys.executable, "-c", "import sys; from pycm.cli.main import pycm; sys.exit(pycm())"]


def run(_: argparse.Namespace) -> list[Figure]:
    figures = [compare("cli-help", [*PYCM, "--help"], "pycm --help, CPU against python3 -c pass", 1.5)]
    with running_agent() as (agent, _broker):
        agent.run_container(IMAGE.name, "/bin/sleep", "86400", name="one")
        command = [*PYCM, "--host", str(agent.socket), "list"]
        figures.append(compare("cli-list", command, "pycm list, CPU against python3 -c pass", 2.5))
    return figures


def compare(name: str, command: list[str], text: str, limit: float) -> Figure:
    cpu_of_command(command)  # the first one reads files from disk
    ratios, own = [], []
    for _ in range(RUNS):
        own.append(cpu_of_command(command))
        ratios.append(own[-1] / cpu_of_command(NOTHING))
    detail = f"{statistics.median(own) * 1000:.0f} ms"
    return Figure(name, text, statistics.median(ratios), "times", limit, detail=detail)
