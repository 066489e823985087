# SPDX-License-Identifier: Apache-2.0
"""What makes containerd keep what pycm's containers need: a lease for snapshots, sandbox records for shims.

The lease is taken over from Kanto as Kanto itself does at its start. Without it containerd's garbage collection would remove a
snapshot as soon as no container record names it, that is, the data of every stopped container.

From 1.7 on, a containerd that starts ends every shim without a process ("cleaning leaked shim process"), and with it the exit code of
a container that ended while containerd was down. It keeps a shim whose id is in its sandbox store, so each task has a record there.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from pycm.containerd import rpc
from pycm.containerd.client import UnsupportedError
from pycm.containerd.proto import leases_pb2, namespaces_pb2, sandbox_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError, PycmError, UnavailableError

if TYPE_CHECKING:
    from pycm.containerd.client import Client

_log = logging.getLogger("pycm.containerd")

_EXPIRES = "containerd.io/gc.expire"
#: On each sandbox record of pycm's, so that those of others are left alone.
_OURS = "pycm.task"


async def ensure_lease(client: Client, lease: str) -> None:
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


class ShimRecords:
    """One record in containerd's sandbox store for each task. It exists from before the task's start until after its deletion.

    containerd 1.6 has no such store and needs none: it is asked once per connection, by `ids`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._supported = True

    async def ids(self) -> frozenset[str] | None:
        """Ask for the tasks that have a record, for each new connection; None if containerd has no sandbox store, or a broken one."""
        request = sandbox_pb2.StoreListRequest(filters=[f'labels."{_OURS}"=="true"'])
        self._supported = True
        try:
            found = await self._client.call(rpc.SANDBOX_LIST, request)
        except UnsupportedError:
            self._supported = False
            return None
        except UnavailableError:
            raise
        except PycmError as error:
            _log.warning("containerd's sandbox records cannot be listed: %s (left as they are)", error)
            return None
        return frozenset(record.sandbox_id for record in found.list)

    async def add(self, container_id: str, runtime: str) -> None:
        """Make the record unless it is there. Without it the container works all the same, so a failure is only logged."""
        record = types_pb2.Sandbox(
            sandbox_id=container_id,
            runtime=types_pb2.Sandbox.Runtime(name=runtime),
            sandboxer="shim",
            labels={_OURS: "true"},
        )
        if not self._supported:
            return
        try:
            await self._client.call(rpc.SANDBOX_CREATE, sandbox_pb2.StoreCreateRequest(sandbox=record))
        except ConflictError:
            pass
        except UnsupportedError:
            self._supported = False
        except PycmError as error:
            _log.warning(
                "container %s: no sandbox record: %s (its exit code is lost if it ends while containerd is down)",
                container_id,
                error,
            )

    async def remove(self, container_id: str) -> None:
        """Remove the record if it is there. One that stays is removed by the next session."""
        if not self._supported:
            return
        try:
            await self._client.call(
                rpc.SANDBOX_DELETE, sandbox_pb2.StoreDeleteRequest(sandbox_id=container_id)
            )
        except NotFoundError:
            pass
        except UnsupportedError:
            self._supported = False
        except UnavailableError:
            raise
        except PycmError as error:
            if "bucket not found" not in str(error):  # so says containerd 1.7 of a record that is not there
                _log.warning("container %s: its sandbox record is left behind: %s", container_id, error)
