# SPDX-License-Identifier: Apache-2.0
"""The commands that print what the agent knows: get, logs and sysinfo."""

from __future__ import annotations

import sys

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Command, Line
from pycm.flags import Flag

ID = "1d1e3210-cc1b-4355-b3a6-7578ead14dab"
INDENT = 3


def get(line: Line) -> None:
    from pycm.model import gojson, records
    from pycm.model.container import Container

    container = records.from_message(Container, chosen(line))
    sys.stdout.write(gojson.dumps(records.encode(container), indent=INDENT) + "\n")


def logs(line: Line) -> None:
    for text in line.agent.logs(chosen(line).id, line.values["tail"]):
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def sysinfo(line: Line) -> None:
    from pycm import __version__
    from pycm.api.methods import API_VERSION, UNKNOWN_BUILD

    info = line.agent.project_info()
    engine = _version(info.project_version, info.api_version, info.git_commit, info.build_time)
    client = _version(__version__, API_VERSION, UNKNOWN_BUILD, UNKNOWN_BUILD)
    sys.stdout.write(f"Engine {engine}\nCLI {client}\n")


def _version(project: str, api: str, commit: str, time: str) -> str:
    return f"v{project}, API v{api}, (build {commit} {time}) "  # compat


COMMANDS = {
    "get": Command(
        get, "get [<container-id>] [flags]", (f"get {ID}", "get -n databroker"), flags=(NAME,), arguments=1
    ),
    "logs": Command(
        logs,
        "logs [<container-id>] [flags]",
        (f"logs {ID}", "logs -n databroker -t 20", "logs -n databroker -t -1"),
        flags=(NAME, Flag("tail", "t", kind="int32", default=100, about="number of records, -1 for all")),
        arguments=1,
    ),
    "sysinfo": Command(sysinfo, "sysinfo [flags]", ("sysinfo",), arguments=0),
}
