# SPDX-License-Identifier: Apache-2.0
"""The guest of tests/vm, switched on once; each test cuts its power and switches it on again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))

import boot_image
from boot_story import ready
from booted_machine import BootedMachine

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--power-sample", type=int, metavar="N", help="run one test, chosen by this number")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number = config.getoption("--power-sample")
    if number is not None:
        cuts = [item for item in items if item.get_closest_marker("parametrize")]
        items[:] = [cuts[number % len(cuts)]]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    booted = BootedMachine(tmp_path_factory.mktemp("power"), boot_image.image())
    try:
        booted.power_on()
        ready(booted)
        booted.run("ctr -n kanto-cm images import /usr/share/pycm-demo/image.tar && sync")
        yield booted
    finally:
        booted.power_cut()
        booted.disk.unlink(missing_ok=True)
