# SPDX-License-Identifier: Apache-2.0
"""`sysinfo`: the versions of the agent and of this command line."""

from __future__ import annotations

import sys

from pycm import __version__
from pycm.api.methods import API_VERSION, UNKNOWN_BUILD

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from pycm.cli.line import Line

USAGE = "sysinfo [flags]"
EXAMPLES = ("sysinfo",)
FLAGS = ()
MOST_ARGUMENTS = 0


def run(line: Line) -> None:
    info = line.agent.project_info()
    engine = _version(info.project_version, info.api_version, info.git_commit, info.build_time)
    client = _version(__version__, API_VERSION, UNKNOWN_BUILD, UNKNOWN_BUILD)
    sys.stdout.write(f"Engine {engine}\nCLI {client}\n")


def _version(project: str, api: str, commit: str, time: str) -> str:
    return f"v{project}, API v{api}, (build {commit} {time}) "
