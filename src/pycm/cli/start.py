# SPDX-License-Identifier: Apache-2.0
"""`start`: start a container that does not run."""

from __future__ import annotations

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line
from pycm.config.flags import Flag
from pycm.errors import ConflictError, InvalidInputError

USAGE = "start [<container-id>] [flags]"
EXAMPLES = ("start 1d1e3210-cc1b-4355-b3a6-7578ead14dab", "start -n databroker")
FLAGS = (
    NAME,
    Flag("a", kind="bool", about="attach to the output (not in this version)"),
    Flag("i", kind="bool", about="attach to the input (not in this version)"),
)
MOST_ARGUMENTS = 1

_REFUSALS = {
    "Dead": "the container with ID = {} is dead and to be removed - cannot start it",
    "Running": "the container with ID = {} is already running - cannot start it again",
    "Paused": "the container with ID = {} is paused - cannot start it - use unpause instead",
}


def run(line: Line) -> None:
    if line.values["a"] or line.values["i"]:
        raise InvalidInputError(
            "--a and --i: attaching comes with a later version; start without them and read the output with logs"
        )
    container = chosen(line)
    refusal = _REFUSALS.get(container.state.status)
    if refusal:
        raise ConflictError(refusal.format(container.id))
    line.agent.start(container.id)
