# SPDX-License-Identifier: Apache-2.0
"""The one connection to the broker that twin and update share: kept up for ever, implements `pycm.ports.Mqtt`.

One task makes a `Link`, waits for its loss, pauses, and makes the next one. Listeners are called at each connection and
loss; sessions are clean, so that they subscribe again each time. Nothing is sent later than requested: without a
connection every call fails at once.

MQTT 3.1.1 has no answer for a refused PUBLISH: a broker whose access rules or size limit forbid it closes the
connection. So the refused message is found by observation (`Refusals`): it waits for its acknowledgement at two losses
in a row. After a message of its kind was refused, one loss is enough for another one that is longer than all accepted
ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from random import random
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, RefusedError, UnavailableError, shorten
from pycm.mqtt.link import Link, Request, reason_of
from pycm.mqtt.settings import Login, check
from pycm.waiting import Backoff, Once, cancel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from pycm.config.types import Connection
    from pycm.mqtt.settings import Source
    from pycm.ports import MqttListener

log = logging.getLogger("pycm.mqtt")

#: PUBLISHes that wait for their acknowledgement at the same time; mosquitto's limit for a client is 20, too.
MAX_IN_FLIGHT = 20
#: Callers that wait for a place among them; one more fails at once.
MAX_WAITING = 1000
#: Lines in the log about unstable connections, until one has lasted.
MAX_LINES = 20
#: Longest pauses. The product promises to be back within 10 s of the return of a broker on this machine, 60 s of any
# other.
LOCAL_CAP, REMOTE_CAP = 8.0, 45.0
#: Seconds after which a connection has lasted, and ends a phase of failures.
LASTED = 60.0
#: Pauses until a refused message is sent again. The product promises 5 minutes from the end of the refusal.
FIRST_REFUSED, REFUSED_CAP = 8.0, 240.0
#: Kinds of refused messages that are remembered; the oldest is forgotten.
MAX_REFUSALS = 64


class _Refusal:
    """`size`: bytes of the smallest refused request, `accepted`: of the longest acknowledged one that is shorter.

    `until`: when the next one may be sent, after `pause` seconds; None: accepted since.
    """

    def __init__(self, size: int, pauses: Backoff) -> None:
        self.size = size
        self.pauses = pauses
        self.until: float | None = None
        self.pause = 0.0
        self.accepted = -1


class Refusals:
    """Which requests the broker refuses, and when each may be sent again. No I/O.

    The pause of a kind is forgotten only if a connection lasted while requests of the kind were accepted.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random
    ) -> None:
        self.clock = clock
        self._chance = chance
        self._suspects: tuple[Request, ...] = ()
        self._found: dict[tuple[str, str], _Refusal] = {}

    @property
    def suspicious(self) -> bool:
        """One of several requests may have ended the last connection: send one at a time to find out which."""
        return bool(self._suspects)

    def pause(self, request: Request) -> float:
        """Seconds during which the request must not be sent; 0: send it."""
        found = self._found.get(request.kind)
        if found is None or found.until is None or request.size < found.size:
            return 0.0
        return max(0.0, found.until - self.clock())

    def acknowledged(self, request: Request) -> bool:
        """True if such a request was refused before."""
        self._suspects = tuple(suspect for suspect in self._suspects if not request.resembles(suspect))
        found = self._found.get(request.kind)
        if found is None or found.until is None:
            return False
        if request.size < found.size:
            found.accepted = max(found.accepted, request.size)
            return False
        found.until = None
        return True

    def lost(self, unanswered: Collection[Request]) -> Request | None:
        """The broker ended the connection while *unanswered* waited. Returns the request that it refuses, if known."""
        if not unanswered:
            self.acquit()
            return None
        for other in self._found.values():
            if other.until is not None:  # while the search continues, known ones wait
                other.until = max(other.until, self.clock() + other.pause)
        request = next(iter(unanswered))
        found = self._found.get(request.kind)
        known = found is not None and request.size > min(found.accepted, found.size - 1)
        if len(unanswered) == 1 and (known or any(map(request.resembles, self._suspects))):
            self._suspects = ()
            return request
        self._suspects = tuple(unanswered)
        return None

    def refuse(self, request: Request) -> tuple[float, bool]:
        """Returns (seconds until it may be sent again, whether that is news for the log)."""
        found = self._found.pop(request.kind, None)
        if found is None:
            while len(self._found) >= MAX_REFUSALS:
                del self._found[next(iter(self._found))]
            found = _Refusal(request.size, Backoff(REFUSED_CAP, FIRST_REFUSED, self._chance))
        self._found[request.kind] = found
        news = not found.pauses.is_longest or request.size < found.size
        found.size = min(found.size, request.size)
        found.accepted = min(found.accepted, found.size - 1)
        found.pause = found.pauses.next()
        found.until = self.clock() + found.pause
        return found.pause, news

    def acquit(self) -> None:
        """The broker was unreachable, or ended a connection on which nothing waited: its rules may have changed."""
        self._suspects = ()
        for found in self._found.values():
            found.until = None

    def lasted(self) -> None:
        """The connection lasted."""
        self._found = {kind: found for kind, found in self._found.items() if found.until is not None}


class MqttClient:
    """The constructor raises ConfigError if these settings can never lead to a connection.

    *source*: the file from which user and password are read again when it has changed.
    """

    def __init__(
        self, settings: Connection, backoff: Backoff | None = None, source: Source | None = None
    ) -> None:
        self._login = Login(settings, source)
        self._renewal: asyncio.Task[None] | None = None
        self._address = check(settings)
        self._backoff = backoff or Backoff(LOCAL_CAP if self._address.is_local else REMOTE_CAP)
        self._refusals = Refusals()
        self._one_by_one = asyncio.Lock()
        self._lasting: asyncio.TimerHandle | None = None
        self.client_id = str(uuid.uuid4())
        self._listeners: list[MqttListener] = []
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._waiting = 0
        self._reported = Once()
        self._lines = 0
        self._quiet = False

    @property
    def connected(self) -> bool:
        return self._link is not None and not self._link.lost.done()

    def add_listener(self, listener: MqttListener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Begin to connect; returns at once. A second call has no effect: the connection is shared."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="mqtt")

    async def stop(self) -> None:
        task, self._task = self._task, None
        await cancel(task, self._renewal)
        if self._lasting:
            self._lasting.cancel()
        link, self._link = self._link, None
        if link:
            await link.close()

    # ── the connection ──

    async def _run(self) -> None:
        while True:
            try:
                await self._connect_once()
            except Exception as error:
                log.debug("MQTT: unexpected error", exc_info=True)
                self._report(reason_of(error))
            await asyncio.sleep(self._backoff.next())

    async def _connect_once(self) -> None:
        """Return after the loss of the connection, or when there was none."""
        await self._login.renew()
        link = Link(self._login.settings, self._address, self.client_id, self._on_message, self._check_login)
        try:
            await link.open()
        except UnavailableError as error:
            self._refusals.acquit()
            self._quiet = False
            self._report(str(error))
            return
        self._up(link)
        # the loss wakes this task before those that wait for acknowledgements: listeners know of it when their calls
        # fail
        await asyncio.wait({link.lost})
        self._down(link)

    def _check_login(self) -> None:
        if self._login.is_stale and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew_login())

    async def _renew_login(self) -> None:
        if await self._login.renew() and self._link is not None:
            self._link.discard("user or password have changed")

    def _up(self, link: Link) -> None:
        self._link = link
        if link.is_local:
            self._backoff.cap = LOCAL_CAP
        self._reported.clear()
        self._say(logging.INFO, f"MQTT broker {self._address.shown}: connected")
        self._lasting = asyncio.get_running_loop().call_later(LASTED, self._lasted)
        for listener in self._listeners:
            with self._surviving("mqtt_connected"):
                listener.mqtt_connected()

    def _lasted(self) -> None:
        if self._lines > MAX_LINES:
            log.info("MQTT broker %s: the connection has lasted %g s", self._address.shown, LASTED)
        self._lines = 0
        self._quiet = False
        self._backoff.reset()
        self._refusals.lasted()

    def _down(self, link: Link) -> None:
        self._link = None
        if self._lasting:
            self._lasting.cancel()
        refused = self._refusals.lost(link.unanswered)
        pause, news = self._refusals.refuse(refused) if refused else (0.0, True)
        # a refused message that is refused again is not worth three lines each time
        self._quiet = not news
        self._report(f"connection lost: {link.lost.result()}")
        if refused:
            reason = "closes the connection on it, for an access rule or a size limit"
            self._say(logging.WARNING, self._refusal(refused, reason, pause))
        for listener in self._listeners:
            with self._surviving("mqtt_disconnected"):
                listener.mqtt_disconnected()

    def _refusal(self, request: Request, reason: str, pause: float) -> str:
        size = f", {request.size} bytes" if request.what == "PUBLISH" else ""
        return (
            f"MQTT broker {self._address.shown}: refuses {request.what} {shorten(request.topic)}{size}:"
            f" {reason} (left out; next attempt in {pause:.0f} s, later at most {REFUSED_CAP:g} s apart)"
        )

    def _report(self, reason: str) -> None:
        """One line for each new reason; hours without a broker do not fill the log."""
        if self._reported.is_new(reason):
            pauses = f"retrying, at most {self._backoff.cap:g} s apart"
            self._say(logging.WARNING, f"MQTT broker {self._address.shown}: {reason} ({pauses})")

    def _say(self, level: int, text: str) -> None:
        """Bounded: an unstable connection writes MAX_LINES lines until one has lasted."""
        if self._quiet:
            level = logging.DEBUG
        else:
            self._lines += 1
            if self._lines == MAX_LINES:
                text += f"; further lines have level DEBUG until a connection has lasted {LASTED:g} s"
            elif self._lines > MAX_LINES:
                level = logging.DEBUG
        log.log(level, "%s", text)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  a callback
        log.debug("MQTT: received %s: %d bytes %s", topic, len(payload), shorten(payload))
        for listener in self._listeners:
            with self._surviving(topic):
                listener.mqtt_message(topic, payload, retained=retained)

    @contextlib.contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """Log a bug of a listener. It must not unwind through paho, which would leave a packet half handled, or end the
        task.
        """
        try:
            yield
        except Exception:
            log.exception("MQTT: bug in the handling of %s", shorten(what))

    # ── the port ──

    def _usable(self) -> Link:
        if self._link is None or self._link.lost.done():
            raise UnavailableError(f"not connected to the MQTT broker at {self._address.shown}")
        return self._link

    async def subscribe(self, topic: str) -> None:
        async with self._sending(Request("SUBSCRIBE", topic)) as link:
            await link.subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        async with self._sending(Request("UNSUBSCRIBE", topic)) as link:
            await link.unsubscribe(topic)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._usable()
        if self._waiting >= MAX_WAITING:
            raise UnavailableError(f"PUBLISH {shorten(topic)}: {MAX_WAITING} messages are pending")
        self._waiting += 1
        try:
            async with self._slots:
                log.debug("MQTT: sending %s: %d bytes %s", topic, len(payload), shorten(payload))
                async with self._sending(Request("PUBLISH", topic, len(payload))) as link:
                    await link.publish(topic, payload, retain=retain)
        finally:
            self._waiting -= 1

    @contextlib.asynccontextmanager
    async def _sending(self, request: Request) -> AsyncIterator[Link]:
        """Hold back a refused request, and learn from the outcome of others. Raises RefusedError."""
        async with self._one_by_one if self._refusals.suspicious else contextlib.nullcontext():
            link = self._usable()
            if pause := self._refusals.pause(request):
                raise RefusedError(self._refusal(request, "refused shortly before", pause), pause)
            try:
                yield link
            except OperationFailedError as error:  # an explicit refusal: the connection stays
                pause, news = self._refusals.refuse(request)
                text = self._refusal(request, str(error), pause)
                log.log(logging.WARNING if news else logging.DEBUG, "%s", text)
                raise RefusedError(text, pause) from None
            if self._refusals.acknowledged(request):
                shown = f"{request.what} {shorten(request.topic)}, {request.size} bytes,"
                log.info("MQTT broker %s: accepts %s again", self._address.shown, shown)
