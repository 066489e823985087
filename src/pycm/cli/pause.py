# SPDX-License-Identifier: Apache-2.0
"""`pause`: freeze all processes of a running container."""

from __future__ import annotations

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line

USAGE = "pause [<container-id>] [flags]"
EXAMPLES = ("pause 1d1e3210-cc1b-4355-b3a6-7578ead14dab", "pause -n databroker")
FLAGS = (NAME,)
MOST_ARGUMENTS = 1


def run(line: Line) -> None:
    line.agent.pause(chosen(line).id)
