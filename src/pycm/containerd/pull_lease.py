# SPDX-License-Identifier: Apache-2.0
"""The lease of a pull: holds what is fetched until the image's record does, and for a day if the pull is cut short.

Each attempt has a lease of its own that takes over what those before it held: a lease's end cannot be put off, and it must not come
in the middle of a pull. The last day's left-overs go by themselves: containerd drops leases whose time is over.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from pycm.containerd import rpc
from pycm.containerd.proto import leases_pb2
from pycm.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycm.containerd.client import Client

KEPT = 24 * 3600.0
_EXPIRES = "containerd.io/gc.expire"
_OWNER = "pycm.pull"


class PullLease:
    """*owner*: names the pull; attempts with the same owner take over from each other. `id` is set by `take`."""

    def __init__(self, client: Client, prefix: str, owner: str) -> None:
        self._client = client
        self._owner = owner
        self.id = f"{prefix}.pull.{os.urandom(8).hex()}"

    async def take(self, kept: float = KEPT) -> None:
        earlier = await self._earlier()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + kept))
        labels = {_EXPIRES: until, _OWNER: self._owner}
        await self._client.call(rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=self.id, labels=labels))
        for lease in earlier:
            await self._take_over(lease)

    async def keep(self, kind: str, name: str) -> None:
        """Hold a resource that is there: kind "content" and a digest, for instance."""
        resource = leases_pb2.Resource(id=name, type=kind)
        await self._client.call(rpc.LEASE_ADD, leases_pb2.AddResourceRequest(id=self.id, resource=resource))

    async def end(self) -> None:
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self.id))

    async def end_if_empty(self) -> None:
        """What failed before anything came leaves nothing."""
        request = leases_pb2.ListResourcesRequest(id=self.id)
        with contextlib.suppress(NotFoundError):
            if not (await self._client.call(rpc.LEASE_RESOURCES, request)).resources:
                await self.end()

    async def end_and_collect(self) -> None:
        """The same, and wait until the room of all that nobody holds any more is free: containerd itself may take its time."""
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_COLLECT, leases_pb2.DeleteRequest(id=self.id, sync=True))

    async def collect(self) -> None:
        """Wait until the room of all that nobody holds any more is free."""
        request = leases_pb2.CreateRequest(id=f"{self.id}.collect")
        await self._client.call(rpc.LEASE_CREATE, request)
        await self._client.call(rpc.LEASE_COLLECT, leases_pb2.DeleteRequest(id=request.id, sync=True))

    async def _earlier(self) -> Sequence[str]:
        request = leases_pb2.ListRequest(filters=[f'labels."{_OWNER}"=="{self._owner}"'])
        return [lease.id for lease in (await self._client.call(rpc.LEASE_LIST, request)).leases]

    async def _take_over(self, lease: str) -> None:
        with contextlib.suppress(NotFoundError):  # it ended meanwhile
            request = leases_pb2.ListResourcesRequest(id=lease)
            for resource in (await self._client.call(rpc.LEASE_RESOURCES, request)).resources:
                if "/" not in resource.type or not resource.id.startswith(
                    "extract-"
                ):  # half-unpacked: begun anew
                    await self.keep(resource.type, resource.id)
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=lease))
