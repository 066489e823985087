# SPDX-License-Identifier: Apache-2.0
"""One command line as a command sees it: flag values, the other words, and the agent, which is connected when first
used.
"""

from __future__ import annotations

import sys

from pycm.errors import InvalidInputError
from pycm.flags import HELP, Flag, parse, quote

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycm.cli.agent import Agent
    from pycm.errors import PycmError
    from pycm.flags import Parsed


DEFAULT_HOST = "/run/container-management/container-management.sock"

#: Accepted before and after the command.
GLOBAL_FLAGS = (
    Flag("debug", kind="bool", about="log each call to the agent on stderr"),
    Flag("host", default=DEFAULT_HOST, about="socket of the agent: a path or unix://path"),
    Flag("timeout", kind="int", default=30, about="seconds to wait for the agent to appear; commands may take longer"),
)  # fmt: skip
_GLOBAL_NAMES = frozenset(flag.name for flag in GLOBAL_FLAGS)

#: The flag of every command that works on one container.
NAME = Flag("name", "n", about="name of the container, instead of its ID")


EXAMPLE_ID = "1d1e3210-cc1b-4355-b3a6-7578ead14dab"


class Command:
    """What one command accepts, and its code: `run` returns the exit code, or None for 0.

    arguments: the maximum, None for any number. interspersed: flags may follow the first argument. usage_code: the exit
    code of a command line that cannot be parsed, 0 for the general one.
    """

    __slots__ = ("arguments", "examples", "flags", "interspersed", "run", "usage", "usage_code")

    def __init__(
        self,
        run: Callable[[Line], int | None],
        usage: str,
        examples: tuple[str, ...],
        *,
        flags: tuple[Flag, ...] = (),
        arguments: int | None = None,
        interspersed: bool = True,
        usage_code: int = 0,
    ) -> None:
        self.run = run
        self.usage = usage
        self.examples = examples
        self.flags = flags
        self.arguments = arguments
        self.interspersed = interspersed
        self.usage_code = usage_code


def for_one(
    run: Callable[[Line], int | None], name: str, *examples: str, flags: tuple[Flag, ...] = ()
) -> Command:
    """A command for one container, which is named by its ID or by --name. *examples*: those with its own flags."""
    usual = (f"{name} {EXAMPLE_ID}", f"{name} -n databroker")
    return Command(
        run, f"{name} [<container-id>] [flags]", (*usual, *examples), flags=(NAME, *flags), arguments=1
    )


class Line:
    """program: `pycm` or `kanto-cm`; values: of all flags; given: the command's own flags on the line; rest: the other
    words.
    """

    def __init__(self, program: str, parsed: Parsed) -> None:
        self.program = program
        self.values = parsed.values
        self.given = parsed.given - _GLOBAL_NAMES
        self.rest = parsed.rest
        self._agent: Agent | None = None

    @property
    def agent(self) -> Agent:
        if self._agent is None:
            from pycm.cli.agent import Agent

            trace = debug_line if self.values["debug"] else None
            self._agent = Agent(
                self.values["host"],
                timeout=max(self.values["timeout"], 0),
                trace=trace,
                waiting=still_waiting,
                rpc=self.program == "kanto-cm",
            )
            if trace:
                trace("start client at debug level")
        return self._agent


def parse_command(program: str, name: str, command: Command, words: Sequence[str]) -> Line:
    """Errors: InvalidInputError, in the order of the original: flags first, then the number of words."""
    flags = (*command.flags, *GLOBAL_FLAGS, HELP)
    line = Line(program, parse(flags, words, interspersed=command.interspersed))
    most, count = command.arguments, len(line.rest)
    if line.values["help"] or most is None or count <= most:
        return line
    if most == 0:
        raise InvalidInputError(f'unknown command {quote(line.rest[0])} for "{program} {name}"')  # compat
    raise InvalidInputError(f"accepts at most {most} arg(s), received {count}")  # compat


def report(error: PycmError, *, hints: bool = True) -> None:
    """Print an error on stderr, and its remedy on a line of its own."""
    hint = f"hint: {error.hint}\n" if hints and error.hint else ""
    sys.stderr.write(f"Error: {error}\n{hint}")


def still_waiting(seconds: float) -> None:
    sys.stderr.write(f"still waiting for the agent: no answer for {seconds:g} s\n")
    sys.stderr.flush()


def debug_line(text: str) -> None:
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f'time="{now}" level=debug msg="{text}"\n')
