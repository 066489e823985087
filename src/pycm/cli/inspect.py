# SPDX-License-Identifier: Apache-2.0
"""The commands that print what the agent knows: get, logs and sysinfo."""

from __future__ import annotations

import sys

from pycm.cli.choose import find_chosen, id_of
from pycm.cli.line import Command, Line, for_one
from pycm.flags import Flag

INDENT = 3
_VERSION = "v{project_version}, API v{api_version}, (build {git_commit} {build_time}) \n"  # compat


def get(line: Line) -> None:
    from pycm.model.gojson import dumps

    sys.stdout.write(dumps(find_chosen(line), indent=INDENT) + "\n")


def logs(line: Line) -> None:
    for text in line.agent.logs(id_of(find_chosen(line)), line.values["tail"]):
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def sysinfo(line: Line) -> None:
    from pycm import __version__
    from pycm.api.protocol import API_VERSION, UNKNOWN_BUILD

    own = {
        "project_version": __version__,
        "api_version": API_VERSION,
        "git_commit": UNKNOWN_BUILD,
        "build_time": UNKNOWN_BUILD,
    }
    sys.stdout.write("Engine " + _VERSION.format(**line.agent.version()) + "CLI " + _VERSION.format(**own))


TAIL = Flag("tail", "t", kind="int32", default=100, about="number of records, -1 for all")
COMMANDS = {
    "get": for_one(get, "get"),
    "logs": for_one(logs, "logs", "logs -n databroker -t 20", "logs -n databroker -t -1", flags=(TAIL,)),
    "sysinfo": Command(sysinfo, "sysinfo [flags]", ("sysinfo",), arguments=0),
}
