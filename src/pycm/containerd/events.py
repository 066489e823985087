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

from pycm.containerd import convert, rpc
from pycm.containerd.proto import events_pb2
from pycm.errors import PycmError, UnavailableError
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
                if event := convert.event(envelope, self._client.namespace):
                    yield event
            async for envelope in envelopes:
                if event := convert.event(envelope, self._client.namespace):
                    yield event
        raise UnavailableError(f"containerd at {self._client.address} ended the event stream")

    def _filters(self, marker: str) -> events_pb2.SubscribeRequest:
        namespace = f'namespace=="{self._client.namespace}"'
        topics = (convert.TOPIC_EXIT, convert.TOPIC_OOM, marker)
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
        topic, event = convert.marker(marker)
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
