# SPDX-License-Identifier: Apache-2.0
"""Running a command in this process: its exit code and what it printed."""

from collections.abc import Callable
from typing import NamedTuple

from pycm.model.container import Container
from support.served_agent import ServedAgent


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def container(agent: ServedAgent, identifier: str) -> Container:
    found = agent.manager.get(identifier)
    assert found is not None
    return found
