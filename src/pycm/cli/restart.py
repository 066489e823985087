# SPDX-License-Identifier: Apache-2.0
"""`restart`: stop a container, by force if it must be, and start it again; one that does not run is started."""

from __future__ import annotations

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line

USAGE = "restart [<container-id>] [flags]"
EXAMPLES = ("restart 1d1e3210-cc1b-4355-b3a6-7578ead14dab", "restart -n databroker")
FLAGS = (NAME,)
MOST_ARGUMENTS = 1


def run(line: Line) -> None:
    line.agent.restart(chosen(line).id)
