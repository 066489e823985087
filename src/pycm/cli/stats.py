# SPDX-License-Identifier: Apache-2.0
"""`stats`: what running containers use, again and again; on a terminal the table stays in its place."""

from __future__ import annotations

import os
import sys

from pycm.cli import tables
from pycm.cli.choose import by_word
from pycm.cli.line import Command
from pycm.errors import InvalidInputError
from pycm.flags import Flag
from pycm.model.durations import MILLISECOND, format_duration

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.api.proto.pycm.v1.agent_pb2 import ContainerStats, StatsResponse
    from pycm.cli.line import Line

FLAGS = (
    tables.FORMAT,
    tables.NO_TRUNC,
    Flag("interval", "i", kind="duration", default=1000 * MILLISECOND, about="between two samples"),
    Flag("no-stream", kind="bool", about="one sample, then end"),
)

TITLES = ("NAME", "CPU %", "MEMORY", "LIMIT", "MEM %", "NET IN", "NET OUT", "READ", "WRITTEN", "PIDS")
FIELDS = (
    "cpu_percent", "memory_used_bytes", "memory_total_bytes", "io_read_bytes", "io_write_bytes",
    "net_read_bytes", "net_write_bytes", "pids",
)  # fmt: skip
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def stats(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    interval = line.values["interval"] // MILLISECOND
    if interval <= 0:  # 0 is the agent's default
        raise InvalidInputError(
            f"--interval: {format_duration(line.values['interval'])} cannot be: 500ms to 24h are possible"
        )
    ids = [by_word(line.agent, word).id for word in line.rest]
    samples = 1 if line.values["no-stream"] else 0
    redraw = not as_json and not samples and tables.columns() > 0 and os.environ.get("TERM") != "dumb"
    for sample in line.agent.own.stats(ids, interval_ms=interval, samples=samples):
        text = (
            tables.json_line(_object(sample)) if as_json else _table(sample, cut=not line.values["no-trunc"])
        )
        sys.stdout.write(_HOME_AND_CLEAR + text if redraw else text)
        sys.stdout.flush()


def _object(sample: StatsResponse) -> dict[str, object]:
    containers = [
        {
            "container_id": one.container_id,
            "container_name": one.container_name,
            **{name: getattr(one, name) if one.HasField(name) else None for name in FIELDS},
        }
        for one in sample.containers
    ]
    return {"time": sample.time, "containers": containers}


def _table(sample: StatsResponse, *, cut: bool) -> str:
    rows = [_row(one) for one in sample.containers]
    return tables.table(TITLES, rows, width=tables.columns() if cut else 0, right="LRRRRRRRRR")


def _row(one: ContainerStats) -> list[str]:
    used, total = one.memory_used_bytes, one.memory_total_bytes
    share = f"{used / total * 100:.1f}" if one.HasField("memory_used_bytes") and total else "-"
    return [
        one.container_name,
        _known(one, "cpu_percent", "{:.1f}".format),
        _known(one, "memory_used_bytes", tables.size),
        _known(one, "memory_total_bytes", tables.size),
        share,
        _known(one, "net_read_bytes", tables.size),
        _known(one, "net_write_bytes", tables.size),
        _known(one, "io_read_bytes", tables.size),
        _known(one, "io_write_bytes", tables.size),
        _known(one, "pids", str),
    ]


def _known(one: ContainerStats, name: str, show: Callable[[float], str]) -> str:
    """A figure that this machine cannot measure is a "-"."""
    return show(getattr(one, name)) if one.HasField(name) else "-"


COMMANDS = {
    "stats": Command(
        stats,
        "stats [<container>...] [flags]",
        ("stats", "stats --no-stream --format json databroker"),
        flags=FLAGS,
    )
}
