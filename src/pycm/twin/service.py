# SPDX-License-Identifier: Apache-2.0
"""The twin's outside: carries messages, events and timers into the core, and the core's decisions out.

One worker sends in order, each message acknowledged before the next. Other decisions are carried out at once, jobs in
lanes. There is no rule of the protocol here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError, PycmError, RefusedError
from pycm.twin.core import Twin
from pycm.twin.lanes import Lanes
from pycm.twin.outbox import (
    CONTAINERS,
    MACHINE,
    MAX_ANSWERS,
    Baseline,
    Decision,
    Forget,
    HostBaseline,
    Keep,
    Measure,
    Note,
    Ordered,
    Outbox,
    Publish,
    Recall,
    Remember,
    Run,
    Subscribe,
    Unsubscribe,
)
from pycm.twin.session import EDGE_RESPONSE
from pycm.twin.state import KeptFile, Memory
from pycm.waiting import Backoff, Once, cancel, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from typing import Any

    from pycm.config.types import Things
    from pycm.ports import Containers, Downloads, Event, Metrics, Mqtt

log = logging.getLogger("pycm.twin")

#: Pauses until everything is published again after a message could not be sent on a connection that is still up;
# doubled.
RETRY_PAUSE, LONGEST_RETRY_PAUSE = 5.0, 300.0
#: Longest wait at the end for pending messages.
DRAIN = 2.0


class Ticker:
    """A timer that keeps the times which follow from its first one. Periods that were missed are skipped."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._period = self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, period: float | None, *, resume: bool = False) -> None:
        """*period* in seconds; None: stop. *resume*: keep the times from before an interruption, so that a long period
        can end.
        """
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if period is not None:
            if not resume or period != self._period:
                self._since = asyncio.get_running_loop().time()
            self._period = period
            self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        periods = 1 + max(0.0, loop.time() - self._since) // self._period
        self._timer = loop.call_at(self._since + periods * self._period, self._due)

    def _due(self) -> None:
        if self._timer:
            self._since = self._timer.when()
        self._schedule()
        self._tick()


class TwinService:
    """Starts the MQTT connection with itself. Stops it at its own end, when the last messages are sent."""

    def __init__(
        self,
        mqtt: Mqtt,
        containers: Containers,
        metrics: Metrics,
        settings: Things,
        *,
        downloads: Downloads | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._mqtt, self._containers, self._metrics = mqtt, containers, metrics
        self._wall_clock = wall_clock
        self._memory, self._kept = Memory(settings.home_dir), KeptFile(settings.home_dir)
        self._to_keep: Mapping[str, Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._core = Twin(
            containers.list,
            settings.features,
            mask_env=settings.mask_env,
            system_metrics=settings.system_metrics,
            policy=settings.policy,
        )
        self._lanes = Lanes(
            self._spawn, containers, downloads, changed=self._job_changed, ended=self._job_ended
        )
        self._operations: set[asyncio.Task[None]] = set()
        self._outbox = Outbox()
        self._work, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._online = False
        self._worker: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._tickers = {reader: Ticker(partial(self._tick, reader)) for reader in (CONTAINERS, MACHINE)}
        self._retry_timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(LONGEST_RETRY_PAUSE, RETRY_PAUSE)
        #: What the retry is for: everything, or only subscriptions that the broker refused.
        self._failing = self._retry_all = False
        self._unheard: dict[str, Subscribe] = {}
        self._dropping = Once()
        self._at_once, self._in_order = self._table_at_once(), self._table_in_order()

    def _table_at_once(self) -> Mapping[type, Callable[[Any], None]]:
        return {
            Note: lambda note: log.log(note.level, "%s", note.text),
            Baseline: lambda one: self._metrics.baseline(one.container_ids),
            HostBaseline: lambda one: self._metrics.host_baseline(one.reader),
            Measure: lambda one: self._tickers[one.reader].set(one.period, resume=one.resume),
            Run: self._lanes.begin,
            Keep: self._keep,
        }

    def _table_in_order(self) -> Mapping[type, Callable[[Any], Awaitable[None]]]:
        return {
            Publish: lambda item: self._mqtt.publish(item.topic, item.payload),
            Subscribe: lambda item: self._mqtt.subscribe(item.topic),
            Unsubscribe: self._unsubscribe_from,
            Remember: lambda item: asyncio.to_thread(self._memory.write, item.thing.id, item.features),
            Forget: self._forget,
            Recall: self._recall,
        }

    # ── life ──

    async def start(self) -> None:
        await asyncio.to_thread(self._memory.prepare)
        await self._restore()
        self._unsubscribe = self._containers.subscribe(self._on_event)
        self._worker = asyncio.create_task(self._send_for_ever(), name="twin")
        self._mqtt.add_listener(self)
        await self._mqtt.start()

    async def _restore(self) -> None:
        kept = await asyncio.to_thread(self._kept.read)
        if kept.thing is not None:
            ids = await asyncio.to_thread(self._memory.read, kept.thing.id)
            self._core.restore(kept._replace(container_ids=tuple(ids)))

    async def stop(self) -> None:
        """Send what is pending, and unsubscribe; bounded in time. May be called again, and without a start."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe:
            unsubscribe()
        await self._drain()
        self._decided(self._core.leave())
        await self._drain()
        self._online = False
        self._cancel_retry()
        await cancel(self._worker)
        self._lanes.closed = True
        await cancel(*self._operations)  # the container manager finishes by itself what it has begun
        if self._keeper:
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._idle.set()
        await self._mqtt.stop()

    async def _drain(self) -> None:
        try:
            await within(DRAIN, self.idle())
        except asyncio.TimeoutError:
            log.warning("twin: broker too slow: %d messages are not sent at the end", len(self._outbox))
            self._outbox.clear()

    async def idle(self) -> None:
        """Return when nothing is pending; at once without a connection, because nothing is pending then."""
        await self._idle.wait()

    async def quiet(self) -> None:
        """Return when no operation runs and nothing is pending."""
        while self._operations:
            await asyncio.wait(self._operations)
        await self.idle()

    # ── inbound ──

    def mqtt_connected(self) -> None:
        self._online = True
        self._decided(self._core.connected())

    def mqtt_disconnected(self) -> None:
        self._online = False
        self._core.unsent(self._outbox.clear())
        self._cancel_retry()
        self._idle.set()
        self._decided(self._core.disconnected())

    def mqtt_message(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        self._decided(self._core.message(topic, payload, retained=retained))

    def _on_event(self, event: Event) -> None:
        self._decided(self._core.event(event))

    def _job_changed(self, run: Run, name: str, value: Any) -> None:
        self._decided(self._core.changed(run, name, value))

    def _job_ended(self, run: Run, outcome: Any) -> None:
        self._decided(self._core.ended(run, outcome))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)

    def _tick(self, reader: str) -> None:
        due = self._core.due(reader)
        if not due.containers and not due.host:
            return
        samples = self._metrics.sample(due.containers) if due.containers else ()
        host = self._metrics.host(due.host, reader) if due.host else ()
        self._decided(self._core.measured(samples, host, int(self._wall_clock()), reader))

    # ── decisions that are carried out at once ──

    def _decided(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if act := self._at_once.get(type(decision)):
                act(decision)
            elif not self._outbox.add(decision) and self._dropping.is_new():  # type: ignore[arg-type]
                log.warning("twin: more than %d answers pending (further ones are dropped)", MAX_ANSWERS)
        if self._outbox:
            self._idle.clear()
            self._work.set()

    def _keep(self, decision: Keep) -> None:
        self._to_keep = decision.state
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._write_kept())

    async def _write_kept(self) -> None:
        """Write the newest state; those that came while the disk was busy are skipped."""
        while self._to_keep is not None:
            state, self._to_keep = self._to_keep, None
            await asyncio.to_thread(self._kept.write, state)

    # ── decisions that are carried out in order ──

    async def _send_for_ever(self) -> None:
        while True:
            while self._outbox:
                try:
                    await self._send(self._outbox.take())
                except Exception:
                    log.exception("twin: bug while sending (out of sync until the next connection)")
            self._dropping.clear()
            if self._core.thing is not None and self._retry_timer is None:
                self._backoff.reset()  # everything was sent; a connection alone proves nothing
            self._idle.set()
            self._work.clear()
            await self._work.wait()

    async def _send(self, item: Ordered) -> None:
        try:
            await self._in_order[type(item)](item)
        except InvalidInputError as error:
            log.error("twin: message cannot be sent: %s (left out)", error)
        except RefusedError as error:
            self._refused(item, error)
        except PycmError as error:
            if isinstance(item, Publish) and item.is_answer:
                self._core.unsent([item])
            self._failed(error)

    async def _unsubscribe_from(self, item: Unsubscribe) -> None:
        """A failure has no consequence: further messages are for a thing that is not ours any more."""
        self._unheard.pop(item.topic, None)
        try:
            await self._mqtt.unsubscribe(item.topic)
        except PycmError as error:
            log.warning("twin: cannot unsubscribe: %s", error)

    async def _forget(self, item: Forget) -> None:
        if item.file:
            await asyncio.to_thread(self._memory.write, item.thing.id, {})
        self._core.forgotten(item.thing)

    async def _recall(self, item: Recall) -> None:
        ids = await asyncio.to_thread(self._memory.read, item.thing.id)
        self._decided(self._core.recalled(item.thing, ids))

    # ── failures ──

    def _refused(self, item: Ordered, error: RefusedError) -> None:
        """The rest is sent as usual. The MQTT connection has logged the refusal."""
        log.debug("twin: left out: %s", error)
        if isinstance(item, Subscribe):
            self._unheard[item.topic] = item
        else:
            self._retry_all = True
            if isinstance(item, Publish) and item.is_answer:
                self._core.unsent([item])
        self._retry_in(error.retry_after)

    def _failed(self, error: PycmError) -> None:
        """The twin may be out of sync: everything is published again, after a pause or with the next connection."""
        if not self._online:
            return
        self._core.unsent(self._outbox.clear())
        if self._failing:
            return
        pause = self._backoff.next()
        log.warning("twin: out of sync: %s (republishing everything in %.0f s)", error, pause)
        self._failing = self._retry_all = True
        self._retry_in(pause)

    def _retry_in(self, pause: float) -> None:
        """The earliest of several counts."""
        loop = asyncio.get_running_loop()
        if self._retry_timer and self._retry_timer.when() <= loop.time() + pause:
            return
        if self._retry_timer:
            self._retry_timer.cancel()
        self._retry_timer = loop.call_later(pause, self._retry)

    def _cancel_retry(self) -> None:
        if self._retry_timer:
            self._retry_timer.cancel()
            self._retry_timer = None
        self._failing = self._retry_all = False
        self._unheard.clear()

    def _retry(self) -> None:
        # without a device a subscription is not enough: the connector may have answered while the agent was not
        # subscribed
        everything = self._retry_all or (EDGE_RESPONSE in self._unheard and self._core.thing is None)
        unheard = list(self._unheard.values())
        self._cancel_retry()
        if self._online:
            self._decided(self._core.retry() if everything else unheard)
