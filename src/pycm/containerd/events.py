# SPDX-License-Identifier: Apache-2.0
"""The session with containerd: one endless stream of events, and what containerd must keep for pycm's containers.

containerd stores no events and does not say when a subscription takes effect. pycm therefore subscribes, publishes an
event of its own until that event arrives, and only then lists the tasks. An exit before the list is in the list, an
exit after it is in the stream, and one in between is in both: an exit may arrive twice, but none is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from pycm.containerd import rpc
from pycm.containerd.client import UnsupportedError
from pycm.containerd.content import EXPIRES
from pycm.containerd.proto import events_pb2, leases_pb2, namespaces_pb2, sandbox_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError, PycmError, UnavailableError
from pycm.ports import RuntimeConnected, RuntimeLost
from pycm.waiting import Backoff, Once, cancel, within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from pycm.containerd.client import Client
    from pycm.containerd.rpc import Call
    from pycm.ports import RuntimeEvent, Task

_log = logging.getLogger("pycm.containerd")

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
#: Seconds until a new subscription must have delivered the marker, and between two markers.
CONFIRMATION, MARKER_PERIOD = 15.0, 0.05
#: Events kept while waiting for the marker. The oldest are dropped: the list that follows shows the exits.
EARLY_LIMIT = 1024
#: Label of pycm's sandbox records; pycm does not touch others.
_OURS = "pycm.task"


class EventStream:
    """*prepare* runs before each subscription and returns containerd's version; *tasks* lists the tasks after it."""

    def __init__(
        self,
        client: Client,
        prepare: Callable[[], Awaitable[str]],
        tasks: Callable[[], Awaitable[tuple[Task, ...]]],
    ) -> None:
        self._client = client
        self._prepare = prepare
        self._tasks = tasks

    async def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Connect and follow containerd for ever. RuntimeConnected or RuntimeLost comes first.

        RuntimeLost comes once for each reason of an absence. No error ends the stream: one of an unexpected class is
        logged with its traceback, and the stream reconnects as after a loss.
        """
        losses, backoff = Once(), Backoff(LAST_DELAY, FIRST_DELAY)
        while True:
            try:
                async with contextlib.aclosing(self._session()) as session:
                    async for event in session:
                        losses = Once()
                        backoff.reset()
                        yield event
            except Exception as error:  # noqa: BLE001 - the agent must not stop following containerd
                reason = str(error) or repr(error)
                if losses.is_new(subject=reason):
                    if not isinstance(error, PycmError):
                        _log.exception("containerd's event stream: unexpected error (reconnecting)")
                    yield RuntimeLost(reason)
            await asyncio.sleep(backoff.next())

    async def _session(self) -> AsyncGenerator[RuntimeEvent, None]:
        version = await self._prepare()
        marker = f"/pycm/subscribed/{os.urandom(8).hex()}"
        namespace = self._client.namespace
        filters = [
            f'namespace=="{namespace}",topic=="{it}"' for it in (rpc.TOPIC_EXIT, rpc.TOPIC_OOM, marker)
        ]
        stream = self._client.stream(rpc.EVENT_SUBSCRIBE, events_pb2.SubscribeRequest(filters=filters))
        async with contextlib.aclosing(stream) as envelopes:
            early = await self._confirm(envelopes, marker)
            yield RuntimeConnected(await self._tasks(), version)
            for envelope in early:
                if event := rpc.read_event(envelope, namespace):
                    yield event
            async for envelope in envelopes:
                if event := rpc.read_event(envelope, namespace):
                    yield event
        raise UnavailableError(f"containerd at {self._client.address} ended the event stream")

    async def _confirm(
        self, envelopes: AsyncGenerator[events_pb2.Envelope, None], marker: str
    ) -> deque[events_pb2.Envelope]:
        """Wait until the subscription takes effect; return what came before the marker."""
        beacon = asyncio.create_task(self._publish(marker))
        try:
            return await within(CONFIRMATION, _read_until(envelopes, marker))
        except asyncio.TimeoutError:
            raise UnavailableError(
                f"containerd did not confirm the event subscription within {CONFIRMATION:g} s"
            ) from None
        finally:
            await cancel(beacon)

    async def _publish(self, marker: str) -> None:
        request = events_pb2.PublishRequest(topic=marker, event=rpc.make_marker())
        while True:
            # the stream reports a failure: both use the same connection
            with contextlib.suppress(PycmError):
                await self._client.call(rpc.EVENT_PUBLISH, request)
            await asyncio.sleep(MARKER_PERIOD)


async def _read_until(
    envelopes: AsyncGenerator[events_pb2.Envelope, None], marker: str
) -> deque[events_pb2.Envelope]:
    early: deque[events_pb2.Envelope] = deque(maxlen=EARLY_LIMIT)
    async for envelope in envelopes:
        if envelope.topic == marker:
            return early
        early.append(envelope)
    raise UnavailableError("containerd ended the event stream")


async def ensure_lease(client: Client, lease: str) -> None:
    """Make namespace and lease unless they exist. Kanto takes the same lease at its start.

    Without the lease, containerd's garbage collection removes a snapshot as soon as no container record names it: the
    data of every stopped container.
    """
    with contextlib.suppress(ConflictError):
        namespace = namespaces_pb2.Namespace(name=client.namespace)
        await client.call(rpc.NAMESPACE_CREATE, namespaces_pb2.CreateNamespaceRequest(namespace=namespace))
    found = await client.call(rpc.LEASE_LIST, leases_pb2.ListRequest(filters=[f'id=="{lease}"']))
    if found.leases and EXPIRES not in found.leases[0].labels:
        await _drop_content(client, lease)
        return
    if found.leases:
        await client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=lease))
    await client.call(rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=lease))


async def _drop_content(client: Client, lease: str) -> None:
    """Old versions also leased image content, which keeps the layers of removed images on the disk for ever."""
    resources = await client.call(rpc.LEASE_RESOURCES, leases_pb2.ListResourcesRequest(id=lease))
    for resource in resources.resources:
        if resource.type == "content":
            await client.call(rpc.LEASE_DROP, leases_pb2.DeleteResourceRequest(id=lease, resource=resource))


class ShimRecords:
    """One record in containerd's sandbox store for each task, from before the task's start until after its deletion.

    From version 1.7 on, a containerd that starts ends every shim without a process ("cleaning leaked shim process"),
    and loses the exit code of a container that ended while containerd was down. It keeps a shim whose id is in its
    sandbox store. containerd 1.6 has no such store and needs none; `ids` finds that out once for each connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._supported = True

    async def ids(self) -> frozenset[str] | None:
        """Return the ids of tasks with a record; None if containerd has no sandbox store, or a broken one."""
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
            _log.warning("containerd's sandbox records: cannot be listed: %s (left as they are)", error)
            return None
        return frozenset(record.sandbox_id for record in found.list)

    async def add(self, container_id: str, runtime: str) -> None:
        """Make the record unless it exists. The container works without it, so a failure is only logged."""
        record = types_pb2.Sandbox(
            sandbox_id=container_id,
            runtime=types_pb2.Sandbox.Runtime(name=runtime),
            sandboxer="shim",
            labels={_OURS: "true"},
        )
        request = sandbox_pb2.StoreCreateRequest(sandbox=record)
        if error := await self._change(rpc.SANDBOX_CREATE, request, ConflictError):
            _log.warning(
                "container %s: no sandbox record: %s (its exit code is lost if it ends while containerd is down)",
                container_id,
                error,
            )

    async def remove(self, container_id: str) -> None:
        """Remove the record if it exists. The next session removes one that stays."""
        request = sandbox_pb2.StoreDeleteRequest(sandbox_id=container_id)
        error = await self._change(rpc.SANDBOX_DELETE, request, NotFoundError)
        if isinstance(error, UnavailableError):
            raise error
        if error and "bucket not found" not in str(error):  # containerd 1.7's answer for a missing record
            _log.warning(
                "container %s: sandbox record cannot be removed: %s (the next connection retries)",
                container_id,
                error,
            )

    async def _change(self, call: Call[Any, Any], request: Any, done: type[PycmError]) -> PycmError | None:
        """Return the error, but for *done*, which says that nothing had to change."""
        if not self._supported:
            return None
        try:
            await self._client.call(call, request)
        except done:
            pass
        except UnsupportedError:
            self._supported = False
        except PycmError as error:
            return error
        return None
