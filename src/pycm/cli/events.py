# SPDX-License-Identifier: Apache-2.0
"""`events`: what happens to containers, one line or one JSON object each, until Ctrl-C."""

from __future__ import annotations

import sys

from pycm.cli import tables
from pycm.cli.choose import by_word
from pycm.cli.line import Command
from pycm.flags import Flag

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from pycm.api.proto.pycm.v1.agent_pb2 import Event
    from pycm.cli.line import Line

FLAGS = (
    tables.FORMAT,
    Flag("action", kind="strings", about="only these: created, running, stopped, exited, removed, ..."),
)


def events(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    ids = [by_word(line.agent, word).id for word in line.rest]
    for event in line.agent.own.events(ids, line.values["action"]):
        sys.stdout.write(_object(event) if as_json else _text(event))
        sys.stdout.flush()


def _object(event: Event) -> str:
    names = (
        "time", "action", "container_id", "container_name", "image", "status", "exit_code", "error",
    )  # fmt: skip
    return tables.json_line({name: getattr(event, name) for name in names})


def _text(event: Event) -> str:
    text = f"{event.time}  {event.action:<9} {event.container_name} ({event.container_id})"
    if event.action in ("exited", "stopped"):
        text += f" exit code {event.exit_code}"
    return (f"{text}: {event.error}" if event.error else text) + "\n"


COMMANDS = {
    "events": Command(
        events,
        "events [<container>...] [flags]",
        ("events", "events --action exited,stopped --format json databroker"),
        flags=FLAGS,
    )
}
