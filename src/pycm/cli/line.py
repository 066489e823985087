# SPDX-License-Identifier: Apache-2.0
"""One command line as a command sees it: flag values, the other words, and the agent, which is connected when first used."""

from __future__ import annotations

import sys

from pycm.config.flags import HELP, Flag, parse, quote
from pycm.errors import InvalidInputError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pycm.api.calls import Agent
    from pycm.config.flags import Parsed

DEFAULT_HOST = "/run/container-management/container-management.sock"

#: Taken before and after the command.
GLOBAL_FLAGS = (
    Flag("debug", kind="bool", about="say on stderr what is done"),
    Flag(
        "host", default=DEFAULT_HOST, about="where the agent listens: a path, unix://path or tcp://host:port"
    ),
    Flag(
        "timeout",
        kind="int",
        default=30,
        about="seconds to wait for the agent to answer; not a limit for the command",
    ),
)
_GLOBAL_NAMES = frozenset(flag.name for flag in GLOBAL_FLAGS)

#: The flag of every command that works on one container.
NAME = Flag("name", "n", about="name of the container, instead of its id")


class Line:
    """program: `pycm` or `kanto-cm`; values: of every flag; given: names of this command's own flags that were used; rest: the other words."""

    def __init__(self, program: str, command: Any, parsed: Parsed) -> None:
        self.program = program
        self.command = command
        self.values = parsed.values
        self.given = parsed.given - _GLOBAL_NAMES
        self.rest = parsed.rest
        self._agent: Agent | None = None

    @property
    def agent(self) -> Agent:
        if self._agent is None:
            from pycm.api.calls import Agent

            trace = debug_line if self.values["debug"] else None
            self._agent = Agent(
                self.values["host"],
                timeout=max(self.values["timeout"], 0),
                trace=trace,
                waiting=still_waiting,
            )
            if trace:
                trace("start client at debug level")
        return self._agent

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()


def parse_command(program: str, name: str, command: Any, words: Sequence[str]) -> Line:
    """Errors: InvalidInputError, in the order of the original: flags first, then the number of words."""
    flags = (*command.FLAGS, *GLOBAL_FLAGS, HELP)
    line = Line(program, command, parse(flags, words, interspersed=getattr(command, "INTERSPERSED", True)))
    most: int | None = command.MOST_ARGUMENTS
    count = len(line.rest)
    if line.values["help"] or most is None or count <= most:
        return line
    if most == 0:
        raise InvalidInputError(f'unknown command {quote(line.rest[0])} for "{program} {name}"')
    raise InvalidInputError(f"accepts at most {most} arg(s), received {count}")


def still_waiting(method: str, seconds: float) -> None:
    sys.stderr.write(f"still waiting for the agent: {method} takes more than {seconds:g} s\n")
    sys.stderr.flush()


def debug_line(text: str) -> None:
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f'time="{now}" level=debug msg="{text}"\n')
