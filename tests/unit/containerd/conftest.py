# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_containerd import FakeContainerd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeContainerd]:
    server = FakeContainerd(str(tmp_path / "c.sock"))
    await server.start()
    yield server
    await server.stop()
