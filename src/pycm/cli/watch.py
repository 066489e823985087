# SPDX-License-Identifier: Apache-2.0
"""The commands that watch containers: events, stats and wait."""

from __future__ import annotations

import os
import sys
import time

from pycm.cli import tables
from pycm.cli.choose import find_by_word, id_of
from pycm.cli.client import TimeExpiredError
from pycm.cli.line import Command
from pycm.errors import InvalidInputError
from pycm.flags import Flag, quote
from pycm.model.durations import MILLISECOND, SECOND, format_duration

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from typing import Any

    from pycm.cli.line import Line

EVENT_FIELDS = ("time", "action", "container_id", "container_name", "image", "status", "exit_code", "error")
#: Columns of `stats` after the name: title, member of the JSON object, how it is shown. What cannot be measured is a
# "-". fmt: off
COLUMNS = (
    ("CPU %", "cpu_percent", "{:.1f}".format),
    ("MEMORY", "memory_used_bytes", tables.size),
    ("LIMIT", "memory_total_bytes", tables.size),
    ("MEM %", "", "{:.1f}".format),  # MEMORY of LIMIT
    ("NET IN", "net_read_bytes", tables.size),
    ("NET OUT", "net_write_bytes", tables.size),
    ("READ", "io_read_bytes", tables.size),
    ("WRITTEN", "io_write_bytes", tables.size),
    ("PIDS", "pids", str),
)
# fmt: on
CONDITIONS = ("stopped", "next-exit", "removed", "running")
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def _ids(line: Line) -> list[str]:
    return [id_of(find_by_word(line.agent, word)) for word in line.rest]


def events(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    for event in line.agent.events(_ids(line), line.values["action"]):
        sys.stdout.write(
            tables.json_line({name: event[name] for name in EVENT_FIELDS}) if as_json else _text(event)
        )
        sys.stdout.flush()


def _text(event: Any) -> str:
    text = f"{event['time']}  {event['action']:<9} {event['container_name']} ({event['container_id']})"
    if event["action"] in ("exited", "stopped"):
        text += f" exit code {event['exit_code']}"
    return (f"{text}: {event['error']}" if event["error"] else text) + "\n"


def stats(line: Line) -> None:
    as_json, interval = tables.wants_json(line.values["format"]), line.values["interval"]
    if interval < MILLISECOND:  # 0 is the agent's default
        raise InvalidInputError(f"--interval must be between 500ms and 24h, got {format_duration(interval)}")
    ids, samples = _ids(line), int(line.values["no-stream"])
    cut = not line.values["no-trunc"]
    redraw = not as_json and not samples and tables.columns() > 0 and os.environ.get("TERM") != "dumb"
    for sample in line.agent.stats(ids, interval_ms=interval // MILLISECOND, samples=samples):
        text = tables.json_line(_object(sample)) if as_json else _table(sample, cut=cut)
        sys.stdout.write(_HOME_AND_CLEAR + text if redraw else text)
        sys.stdout.flush()


def _object(sample: Any) -> dict[str, object]:
    names = ("container_id", "container_name", *(name for _, name, _ in COLUMNS if name))
    return {
        "time": sample["time"],
        "containers": [{name: one.get(name) for name in names} for one in sample["containers"]],
    }


def _table(sample: Any, *, cut: bool) -> str:
    rows = [[one["container_name"], *_cells(one)] for one in sample["containers"]]
    titles = ("NAME", *(title for title, _, _ in COLUMNS))
    return tables.table(titles, rows, width=tables.columns() if cut else 0, right="L" + "R" * len(COLUMNS))


def _cells(one: Any) -> list[str]:
    used, total = one.get("memory_used_bytes"), one.get("memory_total_bytes")
    values = {**one, "": used / total * 100 if used is not None and total else None}
    return [show(values[name]) if values.get(name) is not None else "-" for _, name, show in COLUMNS]


def wait(line: Line) -> None:
    _check(line)
    condition, within = line.values["for"], line.values["within"] / SECOND
    until = time.monotonic() + within
    for container_id in _ids(line):
        left = max(until - time.monotonic(), 0.001) if within > 0 else None
        try:
            answer = line.agent.wait(container_id, condition, seconds=left)
        except TimeExpiredError:
            text = f"container {container_id} did not reach the condition {condition} in time"
            raise TimeExpiredError(text) from None
        sys.stdout.write(f"{answer['exit_code']}\n")
        sys.stdout.flush()


def _check(line: Line) -> None:
    condition, within = line.values["for"], line.values["within"]
    if condition not in CONDITIONS:
        raise InvalidInputError(f"--for must be one of {', '.join(CONDITIONS)}, got {quote(condition)}")
    if "within" in line.given and within <= 0:
        raise InvalidInputError(f"--within must be more than 0s, got {format_duration(within)}")
    if not line.rest:
        raise InvalidInputError("name at least one container to wait for")
    if condition == "next-exit" and len(line.rest) > 1:
        hint = "run one wait for each container: while it waits for one, another could exit"
        raise InvalidInputError(f"--for next-exit accepts one container, got {len(line.rest)}", hint=hint)


COMMANDS = {
    "events": Command(
        events,
        "events [<container>...] [flags]",
        ("events", "events --action exited,stopped --format json databroker"),
        flags=(
            tables.FORMAT,
            Flag("action", kind="strings", about="only these: created, running, stopped, exited, removed, ..."),
        ),
    ),
    "stats": Command(
        stats,
        "stats [<container>...] [flags]",
        ("stats", "stats --no-stream --format json databroker"),
        flags=(
            tables.FORMAT,
            tables.NO_TRUNC,
            Flag("interval", "i", kind="duration", default=1000 * MILLISECOND, about="time between two samples"),
            Flag("no-stream", kind="bool", about="print one sample and exit"),
        ),
    ),
    "wait": Command(
        wait,
        "wait <container>... [flags]",
        ("wait databroker", "wait --for running --within 30s databroker seat"),
        flags=(
            Flag("for", default="stopped", about="stopped, next-exit, removed or running", word="condition"),
            Flag("within", kind="duration", about="give up after this time, with exit code 6"),
        ),
    ),
}  # fmt: skip
