# SPDX-License-Identifier: Apache-2.0
"""The demo's lines, from messages as the agent sends them."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.fixture
def device(scripts_lib: None) -> Any:
    from demo import Device

    return Device()


def message(path: str, value: object = None, action: str = "twin/commands/modify") -> str:
    return json.dumps({"topic": f"demo/device:edge:containers/things/{action}", "path": path, "value": value})


def container(name: str, status: str) -> dict[str, object]:
    return {"definition": ["x"], "properties": {"status": {"name": name, "state": {"status": status}}}}


def data(originator: str, **figures: float) -> str:
    measurements = [{"id": key.replace("_", "."), "value": value} for key, value in figures.items()]
    snapshot = [{"originator": originator, "measurements": measurements}]
    return message(
        "/features/Metrics/outbox/messages/data", {"snapshot": snapshot, "timestamp": 1}, "live/messages/data"
    )


def test_a_container_appears_with_its_status_and_figures(device: Any) -> None:
    device.feed(message("/features/Container:c-1", container("busy", "CREATED")))
    device.feed(message("/features/Container:c-1/properties/status/state", {"status": "RUNNING"}))
    assert device.feed(
        data("Container:c-1", cpu_utilization=49.96, memory_used=3 * 1024 * 1024, net_readBytes=512, pids=1)
    )
    assert device.lines() == [
        "container busy, status Running, cpu % 50.0, memory 3.0 MiB, net in 512 B, net out -, pids 1"
    ]


def test_line_says_what_each_figure_is(device: Any) -> None:
    device.feed(message("/features/Container:c-1", container("busy", "RUNNING")))
    assert device.lines() == [
        "container busy, status Running, cpu % -, memory -, net in -, net out -, pids 0"
    ]


def test_a_deleted_container_disappears(device: Any) -> None:
    device.feed(message("/features/Container:c-1", container("busy", "RUNNING")))
    device.feed(message("/features/Container:c-1", None, "twin/commands/delete"))
    assert device.lines() == []


def test_figures_of_an_unknown_container_are_ignored(device: Any) -> None:
    assert device.feed(data("Container:other", pids=1))
    assert device.lines() == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (2 * 1024**4, "2048.0 GiB"),
    ],
)
def test_sizes_are_read_by_people(scripts_lib: None, value: float | None, text: str) -> None:
    from demo import size

    assert size(value) == text
