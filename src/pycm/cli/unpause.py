# SPDX-License-Identifier: Apache-2.0
"""`unpause`: let the processes of a paused container go on."""

from __future__ import annotations

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line

USAGE = "unpause [<container-id>] [flags]"
EXAMPLES = ("unpause 1d1e3210-cc1b-4355-b3a6-7578ead14dab", "unpause -n databroker")
FLAGS = (NAME,)
MOST_ARGUMENTS = 1


def run(line: Line) -> None:
    line.agent.unpause(chosen(line).id)
