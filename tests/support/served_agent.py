# SPDX-License-Identifier: Apache-2.0
"""A manager with faked outside rooms behind a real API server, in a thread: blocking clients and the command line can talk to it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from pycm.api.server import Server
from pycm.api.server.operations import Rooms
from pycm.containers.catalog import Catalog
from pycm.containers.manager import Manager
from pycm.containers.sessions import Sessions
from support.fake_metrics import FakeMetrics
from support.fakes import FakeImages, FakeLogs, FakeNetwork, FakeRuntime, FakeStore
from support.managers import configured

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from typing_extensions import Self

WAIT = 60.0


class Listen:
    """What Server needs of the configuration."""

    def __init__(self, address_path: str, protocol: str = "unix") -> None:
        self.protocol = protocol
        self.address_path = address_path


class ServedAgent:
    """Use as a context manager; `run` executes a coroutine on the agent's loop."""

    def __init__(
        self, socket_path: str, *, runtime: FakeRuntime | None = None, network: FakeNetwork | None = None
    ) -> None:
        self.path = socket_path
        self.runtime = runtime or FakeRuntime()
        self.network = network or FakeNetwork()
        self.logs, self.metrics = FakeLogs(), FakeMetrics()
        self.images = FakeImages()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._start())
        return self

    async def _start(self) -> None:
        self.manager = Manager(
            catalog=Catalog(FakeStore()),  # type: ignore[arg-type]
            runtime=self.runtime,
            images=self.images,
            logs=self.logs,
            metrics=self.metrics,
            network=self.network,
            config=configured(),
        )
        await self.manager.load()
        self._running = asyncio.ensure_future(self.manager.run())
        sessions = Sessions(self.manager, self.runtime, self.logs)
        self.server = Server(
            Rooms(self.manager, self.logs, sessions, self.metrics, self.images), Listen(self.path)
        )
        await self.server.start()

    async def _stop(self) -> None:
        await self.server.close()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.manager.close()

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WAIT)
            self._loop.close()
