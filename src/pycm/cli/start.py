# SPDX-License-Identifier: Apache-2.0
"""`start`: start a container that does not run."""

from __future__ import annotations

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line
from pycm.config.flags import Flag
from pycm.errors import ConflictError

USAGE = "start [<container-id>] [flags]"
EXAMPLES = (
    "start 1d1e3210-cc1b-4355-b3a6-7578ead14dab",
    "start -n databroker",
    "start --a --i -n shell",
)
FLAGS = (
    NAME,
    Flag("a", kind="bool", about="attach: show its output until it ends, and end with its exit code"),
    Flag("i", kind="bool", about="as --a, and pass on what is typed; Ctrl-P Ctrl-Q detaches from a terminal"),
)
MOST_ARGUMENTS = 1

_REFUSALS = {
    "Dead": "the container with ID = {} is dead and to be removed - cannot start it",
    "Running": "the container with ID = {} is already running - cannot start it again",
    "Paused": "the container with ID = {} is paused - cannot start it - use unpause instead",
}


def run(line: Line) -> int:
    container = chosen(line)
    refusal = _REFUSALS.get(container.state.status)
    if refusal:
        raise ConflictError(refusal.format(container.id))
    output, keys = line.values["a"], line.values["i"]
    if not (output or keys):
        line.agent.start(container.id)
        return 0
    from pycm.cli.attaching import check_terminal, join

    check_terminal(container, output=output)
    return join(line, container, stdin=keys, then=lambda: line.agent.start(container.id))
