# SPDX-License-Identifier: Apache-2.0
"""containerd's events as one endless stream that survives containerd's restarts and misses no exit.

containerd keeps no events, and does not say when a subscription begins to count. So after subscribing an event of our own is
published until it comes back; only then are the tasks listed. What ended before the list is in the list, what ended after it is in
the stream, and in between in both: an exit may come twice, never not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import deque
from typing import TYPE_CHECKING

from pycm.containerd import rpc
from pycm.containerd.client import UnsupportedError
from pycm.containerd.proto import events_pb2, leases_pb2, namespaces_pb2, sandbox_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError, PycmError, UnavailableError
from pycm.ports import RuntimeConnected, RuntimeLost
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from pycm.containerd.client import Client
    from pycm.ports import RuntimeEvent, Task

_log = logging.getLogger("pycm.containerd")

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
#: Seconds for a new subscription to show the marker, and between markers.
STANDING, MARKER_PERIOD = 15.0, 0.05
#: Events kept while waiting for the marker. Beyond it the oldest go: the list that follows shows exits anyway.
EARLY_LIMIT = 1024


def delays() -> Iterator[float]:
    """Seconds to wait before each further try: doubling to a bound, with up to half taken off so that peers spread out."""
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1)
        delay = min(delay * 2, LAST_DELAY)


class EventStream:
    """*prepare* is awaited before each subscription, *tasks* after it."""

    def __init__(
        self,
        client: Client,
        prepare: Callable[[], Awaitable[None]],
        tasks: Callable[[], Awaitable[tuple[Task, ...]]],
    ) -> None:
        self._client = client
        self._prepare = prepare
        self._tasks = tasks

    async def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield RuntimeConnected or RuntimeLost first, then what happens, forever. One RuntimeLost for one absence.

        No error ends it: one of an unexpected class is logged with its traceback and retried like a lost connection.
        """
        lost = False
        waits = delays()
        while True:
            try:
                async with contextlib.aclosing(self._session()) as session:
                    async for event in session:
                        lost, waits = False, delays()
                        yield event
            except Exception as error:  # noqa: BLE001 - whoever follows containerd must never stop
                if not lost:
                    if not isinstance(error, PycmError):
                        _log.exception("event stream: unexpected error (retrying)")
                    yield RuntimeLost(str(error) or repr(error))
                lost = True
            await asyncio.sleep(next(waits))

    async def _session(self) -> AsyncGenerator[RuntimeEvent, None]:
        await self._prepare()
        marker = f"/pycm/subscribed/{os.urandom(8).hex()}"
        stream = self._client.stream(rpc.EVENT_SUBSCRIBE, self._filters(marker))
        async with contextlib.aclosing(stream) as envelopes:
            early = await self._stand(envelopes, marker)
            yield RuntimeConnected(await self._tasks())
            for envelope in early:
                if event := rpc.event(envelope, self._client.namespace):
                    yield event
            async for envelope in envelopes:
                if event := rpc.event(envelope, self._client.namespace):
                    yield event
        raise UnavailableError(f"containerd at {self._client.address} ended the event stream")

    def _filters(self, marker: str) -> events_pb2.SubscribeRequest:
        namespace = f'namespace=="{self._client.namespace}"'
        topics = (rpc.TOPIC_EXIT, rpc.TOPIC_OOM, marker)
        return events_pb2.SubscribeRequest(filters=[f'{namespace},topic=="{topic}"' for topic in topics])

    async def _stand(
        self, envelopes: AsyncGenerator[events_pb2.Envelope, None], marker: str
    ) -> deque[events_pb2.Envelope]:
        """Wait until the subscription counts; what came before the marker is returned."""
        beacon = asyncio.create_task(self._publish(marker))
        try:
            return await within(STANDING, _until(envelopes, marker))
        except asyncio.TimeoutError:
            raise UnavailableError(
                f"containerd's event stream does not stand within {STANDING:g} s"
            ) from None
        finally:
            beacon.cancel()
            await asyncio.gather(beacon, return_exceptions=True)

    async def _publish(self, marker: str) -> None:
        topic, event = rpc.marker(marker)
        while True:
            # a failure is the stream's to report: they share a connection
            with contextlib.suppress(PycmError):
                await self._client.call(
                    rpc.EVENT_PUBLISH, events_pb2.PublishRequest(topic=topic, event=event)
                )
            await asyncio.sleep(MARKER_PERIOD)


async def _until(
    envelopes: AsyncGenerator[events_pb2.Envelope, None], marker: str
) -> deque[events_pb2.Envelope]:
    early: deque[events_pb2.Envelope] = deque(maxlen=EARLY_LIMIT)
    async for envelope in envelopes:
        if envelope.topic == marker:
            return early
        early.append(envelope)
    raise UnavailableError("containerd ended the event stream")


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
