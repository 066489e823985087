# SPDX-License-Identifier: Apache-2.0
"""The scripts' helpers are modules of no package: they are found in their own directory."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def scripts_lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "scripts/lib"))
