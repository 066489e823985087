# SPDX-License-Identifier: Apache-2.0
"""What the tests of the deployment share: a place, short pauses, and what was logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from place import Place

from pycm.deployment import service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST_RETRY", 0.001)
    monkeypatch.setattr(service, "LAST_RETRY", 0.001)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "pycm.deployment")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "pycm.deployment"]
