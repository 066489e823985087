# SPDX-License-Identifier: Apache-2.0
"""The network as the core sees it: each container belongs to the network mode in its description."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.model.defaults import BRIDGE
from pycm.network.bridge import BridgeNetwork
from pycm.network.files import ContainerFiles, HostNetwork, check_extra_hosts

if TYPE_CHECKING:
    from collections.abc import Collection

    from pycm.config.types import Network as Options
    from pycm.model.container import Container

log = logging.getLogger("pycm.network")


class Networks:
    """Implements ports.Network. Call `prepare` first, once."""

    def __init__(self, home_dir: str, options: Options, etc: str = "/etc") -> None:
        self._files = ContainerFiles(home_dir, os.path.join(options.exec_root_dir, "network"))
        self._host = HostNetwork(self._files, etc)
        self._bridge = BridgeNetwork(home_dir, options, self._files, etc)

    async def prepare(self) -> None:
        """Find what earlier agents made."""
        await asyncio.to_thread(self._files.prepare)
        await self._bridge.prepare()

    async def clear(self, kept: Collection[str]) -> None:
        await self._bridge.clear(kept)
        for container_id in self._files.others(kept):
            await self._release(container_id)

    def check(self, container: Container) -> None:
        if container.host_config is not None:
            check_extra_hosts(container.host_config.extra_hosts)
        if _bridged(container):
            self._bridge.check(container)

    async def connect(self, container: Container) -> Container:
        return await (self._bridge if _bridged(container) else self._host).connect(container)

    def found(self, container: Container) -> Container:
        return (self._bridge if _bridged(container) else self._host).found(container)

    async def disconnect(self, container_id: str) -> None:
        await self._bridge.disconnect(container_id)  # does nothing in mode host, which has only the files
        await self._release(container_id)

    async def _release(self, container_id: str) -> None:
        try:
            await asyncio.to_thread(self._files.release, container_id)
        except OperationFailedError as error:
            log.error("%s (retrying at its next start)", error)


def _bridged(container: Container) -> bool:
    return container.host_config is not None and container.host_config.network_mode == BRIDGE
