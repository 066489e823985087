# SPDX-License-Identifier: Apache-2.0
"""A container manager on faked peers, what it told, and containers to give it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pycm.config.types import Config, Containers
from pycm.config.types import Manager as ManagerSection
from pycm.containers.catalog import Catalog
from pycm.containers.manager import Manager
from pycm.model.container import (
    Container,
    HostConfig,
    Image,
    RestartPolicy,
    State,
)
from support.fake_metrics import FakeMetrics
from support.fakes import IMAGE, FakeImages, FakeLogs, FakeNetwork, FakeRuntime, FakeStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pycm.ports import Event, Network


def configured(
    home: str = "/nowhere", *, stop_timeout: float = 30.0, live_restore: bool = True, **keys: object
) -> Config:
    """A configuration whose places do not exist. *keys*: of section [containers]."""
    return Config(
        manager=ManagerSection(
            home_dir=home,
            exec_root_dir="/nowhere/run",
            default_ctrs_stop_timeout=stop_timeout,
            live_restore=live_restore,
        ),
        containers=Containers(**{"address_path": f"{home}/containerd.sock", **keys}),
    )


class World:
    """A manager, its fakes, and what it told."""

    def __init__(
        self, runtime: FakeRuntime, store: FakeStore, config: Config, network: Network | None = None
    ) -> None:
        self.runtime, self.store = runtime, store
        self.logs, self.metrics = FakeLogs(), FakeMetrics()
        self.manager = Manager(
            catalog=Catalog(store),  # type: ignore[arg-type]
            runtime=runtime,
            images=FakeImages(),
            logs=self.logs,
            metrics=self.metrics,
            network=network or FakeNetwork(),
            config=config,
        )
        self.events: list[Event] = []
        self.manager.subscribe(self.events.append)

    @property
    def actions(self) -> list[str]:
        return [event.action.value for event in self.events]

    def state(self, container_id: str) -> State:
        container = self.manager.get(container_id)
        assert container is not None
        return container.state

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(12_000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"in vain: {self.actions}")


@asynccontextmanager
async def world(
    *stored: Container, runtime: FakeRuntime | None = None, store: FakeStore | None = None, **settings: object
) -> AsyncIterator[World]:
    values = {"stop_timeout": 0.2, **settings}
    made = World(runtime or FakeRuntime(), store or FakeStore(stored), configured(**values))  # type: ignore[arg-type]
    await made.manager.load()
    task = asyncio.create_task(made.manager.run())
    await made.until(lambda: made.manager._boot_begun)
    try:
        yield made
    finally:
        await made.manager.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def described(container_id: str = "c1", policy: str = "no", **host: object) -> Container:
    return Container(
        id=container_id,
        image=Image(name=IMAGE),
        host_config=HostConfig(network_mode="host", restart_policy=RestartPolicy(type=policy), **host),  # type: ignore[arg-type]
    )


async def started(w: World, container_id: str = "c1", policy: str = "no", **host: object) -> State:
    await w.manager.create(described(container_id, policy, **host))
    await w.manager.start(container_id)
    return w.state(container_id)
