# SPDX-License-Identifier: Apache-2.0
"""`stop`: ask a container's first process to end, and with --force make it."""

from __future__ import annotations

from pycm.cli.choose import check_choice, chosen
from pycm.cli.line import NAME, Line
from pycm.config.flags import Flag
from pycm.errors import InvalidInputError
from pycm.model.durations import SECOND, parse_duration
from pycm.model.signals import parse_signal

USAGE = "stop [<container-id>] [flags]"
EXAMPLES = (
    "stop 1d1e3210-cc1b-4355-b3a6-7578ead14dab",
    "stop -n databroker -f -t 5s",
    "stop -n databroker -s SIGINT",
)
TIME = Flag(
    "time", "t", about="how long to wait for the end: 15s, 1m15s (default: the agent's)", word="duration"
)
FLAGS = (
    NAME,
    TIME,
    Flag("force", "f", kind="bool", about="kill all its processes if it does not end in time"),
    Flag("signal", "s", default="SIGTERM", about="signal to send: name or number"),
)
MOST_ARGUMENTS = 1


def run(line: Line) -> None:
    check_choice(line.rest, line.values["name"])
    timeout = whole_seconds(line.values["time"])
    parse_signal(line.values["signal"])
    container = chosen(line)
    line.agent.stop(container.id, timeout=timeout, force=line.values["force"], signal=line.values["signal"])


def whole_seconds(text: str) -> int:
    """A duration rounded to seconds, half up; "" is 0, the agent's default. Errors: InvalidInputError."""
    if not text:
        return 0
    nanoseconds = parse_duration(text)
    if nanoseconds < 0:
        raise InvalidInputError(f"the timeout = {-(-nanoseconds // SECOND)} shouldn't be negative")
    return (nanoseconds + SECOND // 2) // SECOND
