# SPDX-License-Identifier: Apache-2.0
"""A served world for each test, and a raw client that leaves the server well."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.api_world import Raw, World
from support.json_peer import JsonPeer, connected


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(str(tmp_path / "run" / "s"))
    await made.server.start()
    yield made
    made.channel.close()
    await made.server.close()


@pytest.fixture
async def raw(world: World) -> AsyncIterator[Raw]:
    client = await Raw.connect(world.path)
    yield client
    client.close()
    with contextlib.suppress(ConnectionError):
        await client.writer.wait_closed()
    await world.is_well()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
async def peer(world: World) -> AsyncIterator[JsonPeer]:
    """A client of the JSON API that leaves the server well."""
    async with connected(world.path) as client:
        yield client
    await world.is_well()
