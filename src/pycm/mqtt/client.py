# SPDX-License-Identifier: Apache-2.0
"""The one connection to the broker that twin and update share: kept up for ever, implements `pycm.ports.Mqtt`.

One task makes a `Link`, waits for its loss, pauses, and makes the next. Listeners hear of each connection and loss; sessions are
clean, so they subscribe anew each time. Nothing is sent later than asked for: without a connection every call fails at once.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any

from pycm.errors import UnavailableError, shorten
from pycm.mqtt.backoff import CAP, Backoff
from pycm.mqtt.link import Link
from pycm.mqtt.login import Login
from pycm.mqtt.settings import check

if TYPE_CHECKING:
    from pycm.mqtt.login import Source
    from pycm.mqtt.settings import MqttSettings
    from pycm.ports import MqttListener

log = logging.getLogger("pycm.mqtt")

#: PUBLISHes that wait for their acknowledgement at the same time; mosquitto holds 20 for a client, too.
MAX_IN_FLIGHT = 20
#: Callers that wait for a place among them; one more fails at once.
MAX_WAITING = 1000


class MqttClient:
    """Errors of the constructor: ConfigError, if these settings can never lead to a connection.

    *source*: where user and password are read from anew when it has changed.
    """

    def __init__(
        self, settings: MqttSettings, backoff: Backoff | None = None, source: Source | None = None
    ) -> None:
        self._login = Login(settings, source)
        self._renewal: asyncio.Task[None] | None = None
        self._address = check(settings)
        self._backoff = backoff or Backoff()
        self.client_id = str(uuid.uuid4())
        self._listeners: list[MqttListener] = []
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._waiting = 0
        self._reported = ""

    @property
    def connected(self) -> bool:
        return self._link is not None

    def add_listener(self, listener: MqttListener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Begin to connect; returns at once. Nothing if that was done: the connection is shared."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="mqtt")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._renewal:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        link, self._link = self._link, None
        if link:
            await link.close()

    # ── the connection ──

    async def _run(self) -> None:
        while True:
            reason = await self._one_connection()
            self._report(reason)
            await asyncio.sleep(self._backoff.next())

    async def _one_connection(self) -> str:
        """Why there was none, or why it ended."""
        await self._login.renew()
        link = Link(
            self._login.settings, self._address, self.client_id, self._on_message, self._look_at_login
        )
        try:
            await link.open()
        except UnavailableError as error:
            return str(error)
        self._up(link)
        # the loss wakes this task before those that wait for acknowledgements: listeners know of it when their calls fail
        await asyncio.wait({link.lost})
        self._link = None
        self._tell("mqtt_disconnected")
        return f"connection lost: {link.lost.result()}"

    def _look_at_login(self) -> None:
        if self._login.stale and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew_login())

    async def _renew_login(self) -> None:
        if await self._login.renew() and self._link is not None:
            self._link.discard("user or password have changed")

    def _up(self, link: Link) -> None:
        self._link = link
        self._backoff.reset()
        self._reported = ""
        log.info("connected to the MQTT broker at %s", self._address.shown)
        self._tell("mqtt_connected")

    def _report(self, reason: str) -> None:
        """One line for each new reason; hours without a broker fill no log."""
        if reason != self._reported:
            self._reported = reason
            log.warning(
                "MQTT broker %s: %s; trying again, at most every %g s", self._address.shown, reason, CAP
            )

    def _on_message(self, topic: str, payload: bytes) -> None:
        log.debug("received %s: %d bytes %s", topic, len(payload), shorten(payload))
        self._tell("mqtt_message", topic, payload)

    def _tell(self, what: str, *about: Any) -> None:
        """A bug, wherever it is, must not unwind through paho, which would leave a packet half handled, nor end the connecting."""
        for listener in self._listeners:
            try:
                getattr(listener, what)(*about)
            except Exception:
                log.exception("a bug in the handling of %s %s", what, shorten(about[0]) if about else "")

    # ── the port ──

    def _usable(self) -> Link:
        if self._link is None:
            raise UnavailableError(f"not connected to the MQTT broker at {self._address.shown}")
        return self._link

    async def subscribe(self, topic: str) -> None:
        await self._usable().subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._usable().unsubscribe(topic)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._usable()
        if self._waiting >= MAX_WAITING:
            raise UnavailableError(f"PUBLISH {shorten(topic)}: {MAX_WAITING} messages wait already")
        self._waiting += 1
        try:
            async with self._slots:
                log.debug("sending %s: %d bytes %s", topic, len(payload), shorten(payload))
                await self._usable().publish(topic, payload, retain=retain)
        finally:
            self._waiting -= 1
