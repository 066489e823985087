# SPDX-License-Identifier: Apache-2.0
"""The demo's picture of the device, made of nothing but MQTT messages, and its lines of text. No I/O here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

HEADER = ("CONTAINER", "STATUS", "CPU %", "MEMORY", "NET IN", "NET OUT", "PIDS")
WIDTHS = (12, 10, 7, 11, 11, 11, 6)
CONTAINER = "/features/Container:"


@dataclass
class Row:
    """What the cloud knows of a container."""

    name: str
    status: str = "UNKNOWN"
    figures: dict[str, float] = field(default_factory=dict)


class Device:
    """The twin, as far as the demo looks at it."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.samples = 0
        self.metrics_features = 0

    def feed(self, payload: str) -> bool:
        """Take in one message of the device's event topic; True if it brought figures."""
        envelope = json.loads(payload)
        path, value = envelope.get("path", ""), envelope.get("value")
        if path == "/features/Metrics":
            self.metrics_features += 1
        elif path == "/features/Metrics/outbox/messages/data":
            self._figures(value["snapshot"])
            return True
        elif path.startswith(CONTAINER):
            self._container(
                path.removeprefix(CONTAINER), value, deleted=envelope["topic"].endswith("/delete")
            )
        return False

    def _figures(self, snapshot: list[dict[str, Any]]) -> None:
        self.samples += 1
        for entry in snapshot:
            row = self.rows.get(entry["originator"].removeprefix("Container:"))
            if row:
                row.figures = {m["id"]: m["value"] for m in entry["measurements"]}

    def _container(self, path: str, value: Any, *, deleted: bool) -> None:
        container_id, _, part = path.partition("/")
        if deleted:
            self.rows.pop(container_id, None)
        elif not part:
            status = value["properties"]["status"]
            self.rows[container_id] = Row(status.get("name", container_id), status["state"]["status"])
        elif part == "properties/status/state" and container_id in self.rows:
            self.rows[container_id].status = value["status"]

    def table(self) -> list[str]:
        """Header and one line for each container, in the order of their names."""
        rows = sorted(self.rows.values(), key=lambda row: row.name)
        return [columns(HEADER), *(columns(cells(row)) for row in rows)]

    def plain(self) -> list[str]:
        """One line for each container, complete in itself, for output that is no terminal."""
        rows = sorted(self.rows.values(), key=lambda row: row.name)
        return [
            ", ".join(f"{title.lower()} {cell}" for title, cell in zip(HEADER, cells(row), strict=True))
            for row in rows
        ]


def cells(row: Row) -> tuple[str, ...]:
    figures = row.figures
    cpu = f"{figures['cpu.utilization']:.1f}" if "cpu.utilization" in figures else "-"
    sizes = (size(figures.get(key)) for key in ("memory.used", "net.readBytes", "net.writeBytes"))
    return (row.name, row.status.capitalize(), cpu, *sizes, f"{figures.get('pids', 0):.0f}")


def columns(texts: tuple[str, ...]) -> str:
    """Names to the left, figures to the right."""
    left = (f"{text:<{width}}" for text, width in zip(texts[:2], WIDTHS[:2], strict=True))
    right = (f"{text:>{width}}" for text, width in zip(texts[2:], WIDTHS[2:], strict=True))
    return "".join((*left, *right))


def size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
