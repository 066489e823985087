# SPDX-License-Identifier: Apache-2.0
"""`attach`: join the terminal with the first process of a running container."""

from __future__ import annotations

from pycm.cli.choose import one
from pycm.cli.line import NAME, Line
from pycm.config.flags import Flag
from pycm.errors import ConflictError

USAGE = "attach [<container>] [flags]"
EXAMPLES = ("attach databroker", "attach --no-stdin 1d1e32")
FLAGS = (NAME, Flag("no-stdin", kind="bool", about="show the output only"))
MOST_ARGUMENTS = 1


def run(line: Line) -> int:
    container = one(line)
    if container.state.status not in ("Running", "Paused"):
        raise ConflictError(
            f'container "{container.name}" is not running, it is {container.state.status}:'
            " start --a --i starts it and attaches"
        )
    from pycm.cli.attaching import join

    return join(line, container, stdin=not line.values["no-stdin"])
