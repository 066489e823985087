# SPDX-License-Identifier: Apache-2.0
"""A timer that keeps to the times which follow from its first; periods that were slept through are left out.

The twin's outside: carries messages, events and timers into the core, and the core's decisions out.

One worker sends in order, each message acknowledged before the next; what is to be done at once is done at once. No rule of the
protocol is in here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError, PycmError, RefusedError
from pycm.twin.core import DEFAULT_FEATURES, Twin
from pycm.twin.features.container_config import ALL
from pycm.twin.lanes import INTERNAL, Failed
from pycm.twin.outbox import (
    CONTAINERS,
    MACHINE,
    MAX_ANSWERS,
    AtOnce,
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
from pycm.twin.runner import carry_out
from pycm.twin.session import EDGE_RESPONSE
from pycm.twin.state import KeptFile, Memory, kept_from
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from pycm.config.types import Policy
    from pycm.ports import Containers, Downloads, Event, Metrics, Mqtt


class Ticker:
    """`set` a period in seconds, or None; *tick* is called after each."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._period = self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, period: float | None, *, resume: bool = False) -> None:
        """*resume*: keep to the times from before an interruption. Else a period that is often interrupted would never end."""
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
        assert self._timer is not None
        self._since = self._timer.when()
        self._schedule()
        self._tick()


log = logging.getLogger("pycm.twin")

#: Pauses until everything is published again after a message could not be sent on a connection that is still there; doubled.
RETRY_PAUSE, LONGEST_RETRY_PAUSE = 5.0, 300.0
#: Longest wait at the end for what is still to be sent.
DRAIN = 2.0


@dataclass(frozen=True)
class TwinSettings:
    """The configuration's section `things`."""

    home_dir: str = "/var/lib/container-management"
    features: tuple[str, ...] = DEFAULT_FEATURES
    mask_env: bool = False
    system_metrics: bool = False
    policy: Policy = ALL


class TwinService:
    """Starts the MQTT connection with itself, and ends it at its own end, when the last messages are out."""

    def __init__(
        self,
        mqtt: Mqtt,
        containers: Containers,
        metrics: Metrics,
        settings: TwinSettings,
        *,
        downloads: Downloads | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._mqtt = mqtt
        self._containers = containers
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._downloads = downloads
        self._memory = Memory(settings.home_dir)
        self._kept = KeptFile(settings.home_dir)
        self._to_keep: Mapping[str, Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._operations: set[asyncio.Task[None]] = set()
        self._core = Twin(
            containers.list,
            settings.features,
            mask_env=settings.mask_env,
            system_metrics=settings.system_metrics,
            policy=settings.policy,
        )
        self._outbox = Outbox()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._online = self._ending = False
        self._worker: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._tickers = {reader: Ticker(partial(self._tick, reader)) for reader in (CONTAINERS, MACHINE)}
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_pause = RETRY_PAUSE
        #: What the retry is for: everything, or only subscriptions that the broker refused.
        self._failing = self._retry_all = False
        self._unheard: dict[str, Subscribe] = {}
        self._dropped = 0

    # ── life ──

    async def start(self) -> None:
        await asyncio.to_thread(self._memory.prepare)
        await self._restore()
        self._unsubscribe = self._containers.subscribe(self._on_event)
        self._worker = asyncio.create_task(self._send_for_ever(), name="twin")
        self._mqtt.add_listener(self)
        await self._mqtt.start()

    async def _restore(self) -> None:
        kept = kept_from(await asyncio.to_thread(self._kept.read))
        if kept.thing is not None:
            ids = await asyncio.to_thread(self._memory.read, kept.thing.id)
            self._core.restore(replace(kept, container_ids=tuple(ids)))

    async def stop(self) -> None:
        """Send what is still to be sent, stop listening; bounded in time. May be called again, and without a start."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe:
            unsubscribe()
        await self._drain()
        self._decided(self._core.leave())
        await self._drain()
        self._online = False
        self._cancel_retry()
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._ending = True
        for task in self._operations:  # what the manager has begun it finishes by itself
            task.cancel()
        await asyncio.gather(*self._operations, return_exceptions=True)
        if self._keeper:
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._idle.set()
        await self._mqtt.stop()

    async def _drain(self) -> None:
        try:
            await within(DRAIN, self.idle())
        except asyncio.TimeoutError:
            log.warning(
                "the broker is too slow: %d messages to the twin are not sent at the end", len(self._outbox)
            )
            self._outbox.clear()

    async def idle(self) -> None:
        """Return once nothing waits to be sent; at once without a connection, since nothing waits then."""
        await self._idle.wait()

    async def quiet(self) -> None:
        """Return once no operation runs and nothing waits to be sent."""
        while self._operations:
            await asyncio.wait(self._operations)
        await self.idle()

    # ── what comes in ──

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

    def _tick(self, reader: str) -> None:
        due = self._core.due(reader)
        if not due.containers and not due.host:
            return
        samples = self._metrics.sample(due.containers) if due.containers else ()
        host = self._metrics.host(due.host, reader) if due.host else ()
        self._decided(self._core.measured(samples, host, int(self._wall_clock()), reader))

    # ── what goes out ──

    def _decided(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, (Baseline, HostBaseline, Measure, Run, Keep, Note)):
                self._do(decision)
            elif not self._outbox.add(decision):
                self._note_dropped()
        if self._outbox:
            self._idle.clear()
            self._work.set()

    def _note_dropped(self) -> None:
        self._dropped += 1
        if self._dropped == 1:
            log.warning("more than %d answers wait to be sent: further ones are dropped", MAX_ANSWERS)

    def _do(self, decision: AtOnce) -> None:
        if isinstance(decision, Note):
            log.log(decision.level, "%s", decision.text)
        elif isinstance(decision, Baseline):
            self._metrics.baseline(decision.container_ids)
        elif isinstance(decision, Measure):
            self._tickers[decision.reader].set(decision.period, resume=decision.resume)
        elif isinstance(decision, HostBaseline):
            self._metrics.host_baseline(decision.reader)
        elif isinstance(decision, Run):
            task = asyncio.create_task(self._run(decision))
            self._operations.add(task)
            task.add_done_callback(self._operations.discard)
        else:
            self._keep(decision.state)

    async def _run(self, run: Run) -> None:
        try:
            outcome = await carry_out(run.operation, self._containers, self._downloads)
        except asyncio.CancelledError:
            if self._ending:
                raise
            outcome = Failed(
                INTERNAL
            )  # something below was cancelled; the jobs behind this one wait for its end
        self._decided(self._core.done(run.ticket, outcome))

    def _keep(self, state: Mapping[str, Any]) -> None:
        self._to_keep = state
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._write_kept())

    async def _write_kept(self) -> None:
        """The newest state; those that came while the disk was busy are skipped."""
        while self._to_keep is not None:
            state, self._to_keep = self._to_keep, None
            await asyncio.to_thread(self._kept.write, state)

    async def _send_for_ever(self) -> None:
        while True:
            while self._outbox:
                try:
                    await self._send(self._outbox.take())
                except Exception:
                    log.exception("a bug: the twin may be out of sync until the next connection")
            self._dropped = 0
            if self._core.thing is not None and self._retry_timer is None:
                self._retry_pause = RETRY_PAUSE  # everything was sent; a connection alone proves nothing
            self._idle.set()
            self._work.clear()
            await self._work.wait()

    async def _send(self, item: Ordered) -> None:
        try:
            await self._carry_out(item)
        except InvalidInputError as error:
            log.error("a message was left out: %s", error)
        except RefusedError as error:
            self._refused(item, error)
        except PycmError as error:
            if isinstance(item, Publish) and item.is_answer:
                self._core.unsent([item])
            self._failed(error)

    async def _carry_out(self, item: Ordered) -> None:
        if isinstance(item, Publish):
            await self._mqtt.publish(item.topic, item.payload)
        elif isinstance(item, Subscribe):
            await self._mqtt.subscribe(item.topic)
        elif isinstance(item, Unsubscribe):
            self._unheard.pop(item.topic, None)
            await self._unsubscribe_from(item.topic)
        elif isinstance(item, Remember):
            await asyncio.to_thread(self._memory.write, item.thing.id, item.features)
        elif isinstance(item, Forget):
            if item.file:
                await asyncio.to_thread(self._memory.write, item.thing.id, {})
            self._core.forgotten(item.thing)
        else:
            await self._recall(item)

    async def _unsubscribe_from(self, topic: str) -> None:
        """A failure is of no consequence: what still comes is for a thing that is not ours any more."""
        try:
            await self._mqtt.unsubscribe(topic)
        except PycmError as error:
            log.warning("cannot unsubscribe: %s", error)

    async def _recall(self, item: Recall) -> None:
        ids = await asyncio.to_thread(self._memory.read, item.thing.id)
        self._decided(self._core.recalled(item.thing, ids))

    def _refused(self, item: Ordered, error: RefusedError) -> None:
        """What the broker accepts goes out; the connection has written the line for the log."""
        log.debug("twin: left out: %s", error)
        if isinstance(item, Subscribe):
            self._unheard[item.topic] = item
        else:
            self._retry_all = True
            if isinstance(item, Publish) and item.is_answer:
                self._core.unsent([item])
        self._retry_in(error.retry_after)

    def _failed(self, error: PycmError) -> None:
        """The twin may now show less than the truth: everything is published again, after a pause or with the next connection."""
        if not self._online:
            return
        self._core.unsent(self._outbox.clear())
        if self._failing:
            return
        log.warning("twin is out of sync; republishing everything in %g s: %s", self._retry_pause, error)
        self._failing = self._retry_all = True
        self._retry_in(self._retry_pause)
        self._retry_pause = min(LONGEST_RETRY_PAUSE, self._retry_pause * 2)

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
        # without a device, its subscription alone is not enough: the connector may have answered while nobody listened
        everything = self._retry_all or (EDGE_RESPONSE in self._unheard and self._core.thing is None)
        unheard = list(self._unheard.values())
        self._retry_timer = None
        self._cancel_retry()
        if self._online:
            self._decided(self._core.retry() if everything else unheard)
