# SPDX-License-Identifier: Apache-2.0
"""`logs`: the last records of a container's output, one JSON object a line."""

from __future__ import annotations

import sys

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line
from pycm.config.flags import Flag

USAGE = "logs [<container-id>] [flags]"
EXAMPLES = (
    "logs 1d1e3210-cc1b-4355-b3a6-7578ead14dab",
    "logs -n databroker -t 20",
    "logs -n databroker -t -1",
)
FLAGS = (NAME, Flag("tail", "t", kind="int32", default=100, about="number of records, -1 for all"))
MOST_ARGUMENTS = 1


def run(line: Line) -> None:
    for text in line.agent.logs(chosen(line).id, line.values["tail"]):
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
