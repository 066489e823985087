# SPDX-License-Identifier: Apache-2.0
"""The lease under which pycm's containers and snapshots live, taken over from Kanto as Kanto itself does at its start.

Without a lease containerd's garbage collection would remove a snapshot as soon as no container record names it, that is, the data of
every stopped container.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pycm.containerd import rpc
from pycm.containerd.proto import leases_pb2, namespaces_pb2
from pycm.errors import ConflictError

if TYPE_CHECKING:
    from pycm.containerd.client import Client

_EXPIRES = "containerd.io/gc.expire"


async def ensure(client: Client, lease: str) -> None:
    """Make namespace and lease unless they are there; idempotent."""
    with contextlib.suppress(ConflictError):
        namespace = namespaces_pb2.Namespace(name=client.namespace)
        await client.call(rpc.NAMESPACE_CREATE, namespaces_pb2.CreateNamespaceRequest(namespace=namespace))
    found = await client.call(rpc.LEASE_LIST, leases_pb2.ListRequest(filters=[f'id=="{lease}"']))
    if found.leases and _EXPIRES not in found.leases[0].labels:
        await _drop_content(client, lease)
        return
    if found.leases:
        await client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=lease))
    await client.call(rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=lease))


async def _drop_content(client: Client, lease: str) -> None:
    """Old versions leased image content too, which keeps the layers of removed images on the disk for ever."""
    resources = await client.call(rpc.LEASE_RESOURCES, leases_pb2.ListResourcesRequest(id=lease))
    for resource in resources.resources:
        if resource.type == "content":
            await client.call(rpc.LEASE_DROP, leases_pb2.DeleteResourceRequest(id=lease, resource=resource))
