# SPDX-License-Identifier: Apache-2.0
"""`wait`: until containers have ended, and print their exit codes, one a line."""

from __future__ import annotations

import sys
import time

from pycm.cli.choose import by_word
from pycm.cli.line import Command
from pycm.errors import InvalidInputError
from pycm.flags import Flag, quote
from pycm.model.durations import SECOND, format_duration

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from pycm.cli.line import Line

FLAGS = (
    Flag("for", default="stopped", about="stopped, next-exit, removed or running", word="condition"),
    Flag("within", kind="duration", about="give up after this time, with exit code 6"),
)
#: Numbers of pycm.v1.WaitCondition.
CONDITIONS = {"stopped": 0, "next-exit": 1, "removed": 2, "running": 3}


def wait(line: Line) -> None:
    condition = CONDITIONS.get(line.values["for"])
    if condition is None:
        raise InvalidInputError(f"--for: {quote(line.values['for'])} is none of {', '.join(CONDITIONS)}")
    if "within" in line.given and line.values["within"] <= 0:
        raise InvalidInputError(
            f"--within: {format_duration(line.values['within'])} is no time to wait: more than 0s is needed"
        )
    if not line.rest:
        raise InvalidInputError("the containers to wait for are missing")
    if line.values["for"] == "next-exit" and len(line.rest) > 1:
        raise InvalidInputError(
            "--for next-exit takes one container: of others an exit could be missed meanwhile"
        )
    within = line.values["within"] / SECOND
    until = time.monotonic() + within
    ids = [by_word(line.agent, word).id for word in line.rest]
    for container_id in ids:
        left = max(until - time.monotonic(), 0.001) if within > 0 else None
        answer = line.agent.own.wait(container_id, condition, seconds=left)
        sys.stdout.write(f"{answer.exit_code}\n")
        sys.stdout.flush()


COMMANDS = {
    "wait": Command(
        wait,
        "wait <container>... [flags]",
        ("wait databroker", "wait --for running --within 30s databroker seat"),
        flags=FLAGS,
    )
}
