# SPDX-License-Identifier: Apache-2.0
"""Why there is no connection, in words: tables from exceptions and MQTT codes to one line each.

One connection to the broker, from connecting to its loss, driven by the asyncio loop.

Each connection has a paho client of its own: nothing of an old connection (half-read packets, unacknowledged messages) can reach
into the next one. paho's blocking connect (name resolution, TCP, TLS) runs in a short-lived thread; from then on the loop calls
paho when the socket is readable or writable, and when a ping is due.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, OperationFailedError, PycmError, UnavailableError, shorten
from pycm.mqtt import paho, tls
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.mqtt.settings import Address, MqttSettings


#: CONNACK return codes of MQTT 3.1.1, and the MQTT 5 codes that paho 2 turns them into.
REFUSALS = {
    1: "the broker does not speak MQTT 3.1.1",
    2: "the broker rejects the client id",
    3: "the broker says that it is not available",
    4: "the broker refuses user name or password; see connection.client_username and client_password",
    5: "the broker does not authorise this client; see connection.client_username and client_password",
}
REFUSALS.update(dict(zip((132, 133, 136, 134, 135), REFUSALS.values(), strict=True)))

#: First match counts, so subclasses stand before their bases.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, "connection refused, nothing listens there"),
    (ConnectionResetError, "the broker closed the connection"),
    (socket.gaierror, "the host name cannot be resolved"),
    (TimeoutError, "no answer in time"),
    (asyncio.TimeoutError, "no answer in time"),  # a class of its own before Python 3.11
)


def refusal_of(code: int) -> str:
    return REFUSALS.get(code, f"the broker refuses the connection with code {code}")


def reason_of(error: BaseException) -> str:
    """One line for an exception out of name resolution, connecting, TLS or reading its files."""
    if isinstance(error, PycmError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate does not fit connection.transport.root_ca: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or error}"
    found = next((text for kind, text in _FAILURES if isinstance(error, kind)), None)
    if found or isinstance(error, (OSError, ValueError)):
        return found or f"{getattr(error, 'strerror', None) or error}"
    return f"unexpected {type(error).__name__}: {shorten(str(error))}"


log = logging.getLogger("pycm.mqtt")

#: A packet beyond this ends the connection before it fills the memory.
MAX_PACKET = 4 << 20
#: Packets of a TLS connection that are handled before others get their turn.
_PACKETS = 100
#: paho is asked for a ping this much after it is due by our clock, which is read a moment before paho's.
_PING_SLACK = 0.05
#: At least this long between two looks at the keep-alive.
_PING_PAUSE = 0.5


#: Levels of a topic that make up its kind: access rules rarely look at more, and answers to commands differ in the fifth.
_LEVELS = 4


@dataclass(frozen=True)
class Request:
    """A packet that the broker must acknowledge. `size`: bytes of its payload."""

    what: str
    topic: str
    size: int = 0

    @property
    def kind(self) -> tuple[str, str]:
        """Requests of one kind are refused from some size on."""
        return self.what, "/".join(self.topic.split("/")[:_LEVELS])

    def resembles(self, other: Request) -> bool:
        """The same message, or a slightly different value in its place."""
        return self.kind == other.kind and self.size * 10 >= other.size * 9


class Link:
    """`lost` is done, with the reason, once the connection is gone."""

    def __init__(
        self,
        settings: MqttSettings,
        address: Address,
        client_id: str,
        on_message: Callable[[str, bytes, bool], None],
        on_ping: Callable[[], None] | None = None,
    ) -> None:
        """*on_ping*: called with each ping, for what need not be looked at more often."""
        self._settings = settings
        self._on_ping = on_ping
        self._address = address
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._client = paho.make_client(client_id, MAX_PACKET)
        self._keep_alive = max(1, min(65535, round(settings.keep_alive)))
        self._socket: Any = None
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._acknowledged: dict[int, tuple[Request, asyncio.Future[None]]] = {}
        #: Requests on whose account the broker may have ended the connection.
        self.unanswered: tuple[Request, ...] = ()
        self._last_sent = self._last_received = 0.0
        self._ping_timer: asyncio.TimerHandle | None = None
        self._tls_files: tuple[object, ...] = ()

    # ── making it ──

    async def open(self) -> None:
        """Return once the broker accepted. Errors: UnavailableError with the reason."""
        try:
            await self._connect_in_thread()
            self._attach()
            await within(self._settings.connect_timeout, self._accepted)
        except Exception as error:
            self.discard()
            raise UnavailableError(reason_of(error)) from error
        except BaseException:
            self.discard()
            raise

    async def _connect_in_thread(self) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        # daemon: an attempt that hangs in name resolution must not hold up the end of the agent
        threading.Thread(target=self._connect, args=(done,), name="mqtt-connect", daemon=True).start()
        await done

    def _connect(self, done: asyncio.Future[None]) -> None:
        error: UnavailableError | None = None
        context: tls.Context | None = None
        try:
            self._log_in()
            if self._address.tls:
                self._tls_files = tls.fingerprint(
                    self._settings
                )  # before they are read: what changes meanwhile counts later
                context = tls.make_context(self._settings)
                self._client.tls_set_context(context)
            self._client.connect(self._address.host, self._address.port, self._keep_alive)
        except BaseException as caught:  # noqa: BLE001  whatever it is, the loop waits for it
            error = UnavailableError(reason_of(caught))
            if context:
                context.close_made()
        try:
            self._loop.call_soon_threadsafe(self._connected, done, error)
        except RuntimeError:  # the loop was closed meanwhile
            self._close_socket(self._client.socket())

    def _log_in(self) -> None:
        settings, address = self._settings, self._address
        if settings.client_username:
            self._client.username_pw_set(settings.client_username, settings.client_password or None)
        elif address.user:
            self._client.username_pw_set(address.user, address.password or None)
        if settings.will_topic:
            self._client.will_set(settings.will_topic, settings.will_message.encode(), 1, retain=False)

    def _connected(self, done: asyncio.Future[None], error: UnavailableError | None) -> None:
        if done.done():  # nobody waits any more
            self._close_socket(self._client.socket())
        elif error:
            done.set_exception(error)
        else:
            done.set_result(None)

    @staticmethod
    def _close_socket(sock: Any) -> None:
        if sock is not None:
            sock.close()

    def _attach(self) -> None:
        client = self._client
        self._socket = client.socket()
        if self._socket is None:
            raise ConnectionResetError
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = client.on_unsubscribe = self._on_acknowledge
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_packet
        client.on_socket_register_write = self._on_want_write
        client.on_socket_unregister_write = self._on_no_write
        client.on_socket_close = self._on_socket_close
        self._last_sent = self._last_received = self._loop.time()
        self._loop.add_reader(self._socket, self._readable)
        if client.want_write():
            self._loop.add_writer(self._socket, self._writable)
        self._readable()  # TLS may have read ahead
        self._schedule_ping()

    # ── using it ──

    async def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        try:
            info = self._client.publish(topic, payload, 1, retain)
        except ValueError as error:  # wildcards in the topic, or too long
            raise InvalidInputError(f"PUBLISH {shorten(topic)}, {len(payload)} bytes: {error}") from None
        request = Request("PUBLISH", topic, len(payload))
        await self._acknowledgement(info.rc, info.mid, request, self._settings.acknowledge_timeout)

    async def subscribe(self, topic: str) -> None:
        result, mid = self._client.subscribe(topic, 1)
        request = Request("SUBSCRIBE", topic)
        await self._acknowledgement(result, mid, request, self._settings.subscribe_timeout)

    async def unsubscribe(self, topic: str) -> None:
        result, mid = self._client.unsubscribe(topic)
        request = Request("UNSUBSCRIBE", topic)
        await self._acknowledgement(result, mid, request, self._settings.unsubscribe_timeout)

    async def _acknowledgement(self, result: Any, mid: int, request: Request, limit: float) -> None:
        shown = f"{request.what} {shorten(request.topic)}"
        if paho.code(result) != paho.SUCCESS:
            raise UnavailableError(f"{shown}: not connected to {self._address.shown}")
        future: asyncio.Future[None] = self._loop.create_future()
        self._acknowledged[mid] = request, future
        try:
            await within(limit, future)
        except asyncio.TimeoutError:
            text = f"{shown}: not acknowledged within {limit:g} s"
            # without an acknowledgement only a new connection, on which everything is sent again, is certain to be complete
            self.discard(text, blame=True)
            raise UnavailableError(text) from None
        finally:
            self._acknowledged.pop(mid, None)

    @property
    def is_local(self) -> bool:
        """The broker is on this machine: both ends of the connection have the same address."""
        try:
            return bool(self._socket.getsockname()[0] == self._socket.getpeername()[0])
        except (AttributeError, OSError):  # lost meanwhile
            return False

    async def close(self) -> None:
        """Say goodbye, and close the socket; bounded by the configured time."""
        if not self.lost.done():
            self._client.disconnect()
            await asyncio.wait({self.lost}, timeout=self._settings.disconnect_timeout)
        self.discard("closed")

    def discard(self, reason: str = "given up", *, blame: bool = False) -> None:
        """Close the socket without a DISCONNECT; every waiting call fails. May be called again.

        *blame*: one of the unacknowledged requests may be the reason.
        """
        client = self._client
        client.on_connect = client.on_disconnect = client.on_publish = client.on_message = None
        client.on_subscribe = client.on_unsubscribe = client.on_socket_close = None
        client.on_socket_register_write = client.on_socket_unregister_write = None
        sock, self._socket = self._socket, None
        if sock is not None and sock.fileno() >= 0:
            self._on_socket_close(None, None, sock)
            sock.close()
        self._end(reason, blame=blame)

    def _end(self, reason: str, *, blame: bool) -> None:
        if self._ping_timer:
            self._ping_timer.cancel()
        waiting = list(self._acknowledged.values())
        if not self.lost.done():
            self.lost.set_result(reason)
            self.unanswered = tuple(request for request, _ in waiting) if blame else ()
        error = UnavailableError(f"connection to {self._address.shown} lost: {reason}")
        for future in (self._accepted, *(future for _, future in waiting)):
            if not future.done():
                future.set_exception(error)
                future.exception()  # perhaps nobody waits for it any more

    # ── called by the loop ──

    def _readable(self) -> None:
        self._last_received = self._loop.time()
        self._guarded(self._read)

    def _read(self) -> None:
        # OpenSSL may hold what the socket no longer shows as readable
        for _ in range(_PACKETS):
            self._client.loop_read()
            if (sock := self._client.socket()) is None or not getattr(sock, "pending", int)():
                return
        self._loop.call_soon(self._readable)

    def _writable(self) -> None:
        self._last_sent = self._loop.time()
        self._guarded(self._client.loop_write)

    def _guarded(self, step: Callable[[], object]) -> None:
        """paho raises on malformed packets, and 1.6 on some errors of the socket: the loop would call it again and again."""
        try:
            step()
        except Exception as error:
            log.debug("MQTT: unexpected error", exc_info=True)
            self.discard(
                f"{type(error).__name__}, perhaps of a malformed packet: {shorten(str(error))}", blame=True
            )

    def _schedule_ping(self) -> None:
        now = self._loop.time()
        due = min(self._last_sent, self._last_received) + self._keep_alive + _PING_SLACK
        self._ping_timer = self._loop.call_at(max(due, now + _PING_PAUSE), self._ping)

    def _ping(self) -> None:
        now = self._loop.time()
        due = min(self._last_sent, self._last_received) + self._keep_alive
        if now >= due:
            self._last_sent = self._last_received = now
            self._client.loop_misc()
        if not self.lost.done():
            self._schedule_ping()
            self._look_at_tls_files()
            if self._on_ping:
                self._on_ping()

    def _look_at_tls_files(self) -> None:
        """With the pings, so that it costs no wake-up of its own."""
        if self._address.tls and (found := tls.fingerprint(self._settings)) != self._tls_files:
            self._tls_files = found
            threading.Thread(target=self._try_tls_files, name="mqtt-files", daemon=True).start()

    def _try_tls_files(self) -> None:
        """Files that cannot be used are no reason to give up a connection that works."""
        try:
            tls.make_context(self._settings)
        except UnavailableError as error:
            log.warning("the TLS files have changed and cannot be used; the connection stays: %s", error)
            return
        try:
            self._loop.call_soon_threadsafe(self.discard, "its TLS files have changed")
        except RuntimeError:  # the loop was closed meanwhile
            pass

    # ── called by paho; what follows the named arguments differs between its versions ──

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, result: Any, *_: Any) -> None:
        if self._accepted.done():
            return
        if code := paho.code(result):
            self._accepted.set_exception(UnavailableError(refusal_of(code)))
        else:
            self._accepted.set_result(None)

    def _on_disconnect(self, *_: Any) -> None:
        if not self._accepted.done():
            self._accepted.set_exception(
                UnavailableError("the broker closed the connection before accepting it")
            )
        if self._client.excess:
            self._end(f"the broker sent {self._client.excess}", blame=False)
        else:
            self._end("the broker closed it, or does not answer any more", blame=True)

    def _on_acknowledge(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        if (waiter := self._acknowledged.get(mid)) and not waiter[1].done():
            waiter[1].set_result(None)

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, codes: Any, *_: Any) -> None:
        if not paho.refused(codes):
            self._on_acknowledge(client, userdata, mid)
        elif (waiter := self._acknowledged.get(mid)) and not waiter[1].done():
            waiter[1].set_exception(OperationFailedError("the broker refuses the subscription"))

    def _on_packet(self, _client: Any, _userdata: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("a message was ignored: its topic is not valid UTF-8")
            return
        self._on_message(topic, bytes(message.payload), bool(message.retain))

    def _on_want_write(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock, self._writable)

    def _on_no_write(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _on_socket_close(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
