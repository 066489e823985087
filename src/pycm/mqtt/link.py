# SPDX-License-Identifier: Apache-2.0
"""One connection to the broker, from connecting to its loss, driven by the asyncio loop.

Each connection has its own paho client: nothing of an old one (half-read packets, unacknowledged messages) reaches the
next one. paho's blocking connect (name resolution, TCP, TLS) runs in a short-lived thread. From then on the loop calls
paho when the socket is readable or writable, and when a ping is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError, OperationFailedError, PycmError, UnavailableError, shorten
from pycm.mqtt import paho
from pycm.tls import fingerprint, make_context
from pycm.waiting import apart, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.config.types import Connection
    from pycm.mqtt.settings import Address

log = logging.getLogger("pycm.mqtt")

#: Longest packet. A longer one ends the connection before it fills the memory.
MAX_PACKET = 4 << 20
#: Packets of a TLS connection that are handled before other work of the loop.
_PACKETS = 100
#: Seconds after which paho is called when a ping is due: its clock is read a moment after ours.
_PING_SLACK = 0.05
#: Shortest time between two checks of the keep-alive.
_PING_PAUSE = 0.5
#: Levels of a topic that make up its kind: access rules rarely check more, and answers to commands differ in the fifth.
_LEVELS = 4

# ── reasons ──

_LOGIN = "see connection.client_username and client_password"
#: CONNACK return codes of MQTT 3.1.1, and the MQTT 5 codes that paho 2 turns them into.
REFUSALS = {
    1: "the broker does not support MQTT 3.1.1",
    2: "the broker rejects the client id",
    3: "the broker reports that it is unavailable",
    4: f"the broker refuses user name or password; {_LOGIN}",
    5: f"the broker does not authorise this client; {_LOGIN}",
}
REFUSALS.update(dict(zip((132, 133, 136, 134, 135), REFUSALS.values(), strict=True)))

#: The first match counts, so that subclasses precede their bases.
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
    """One line for an exception of name resolution, connecting, TLS or reading its files."""
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


class Request(NamedTuple):
    """A packet that the broker must acknowledge. `size`: bytes of its payload."""

    what: str
    topic: str
    size: int = 0

    @property
    def kind(self) -> tuple[str, str]:
        """The broker refuses requests of one kind from some size on."""
        return self.what, "/".join(self.topic.split("/")[:_LEVELS])

    def resembles(self, other: Request) -> bool:
        """The same message, or a slightly different value in its place."""
        return self.kind == other.kind and self.size * 10 >= other.size * 9


class Context(ssl.SSLContext):
    """Remembers its socket, because paho leaves it open when the handshake fails."""

    made: ssl.SSLSocket | None = None

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self.made = super().wrap_socket(*arguments, **options)
        return self.made


class Link:
    """`lost` is done, with the reason, when the connection has ended."""

    def __init__(
        self,
        settings: Connection,
        address: Address,
        client_id: str,
        on_message: Callable[[str, bytes, bool], None],
        on_ping: Callable[[], None] | None = None,
    ) -> None:
        """*on_ping* is called with each ping, for checks that need not be more frequent."""
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
        #: Requests that may be the reason for the end of the connection.
        self.unanswered: tuple[Request, ...] = ()
        self._last_sent = self._last_received = 0.0
        self._ping_timer: asyncio.TimerHandle | None = None
        self._tls_files: tuple[object, ...] = ()

    # ── connecting ──

    async def open(self) -> None:
        """Return when the broker has accepted. Raises UnavailableError with the reason."""
        limit = self._settings.connect_timeout
        try:
            # an attempt that hangs in name resolution is left behind: it must not delay the end of the agent
            await apart(f"MQTT {id(self)}", self._connect, limit)
            self._attach()
            await within(limit, self._accepted)
        except Exception as error:
            self.discard()
            raise UnavailableError(reason_of(error)) from error
        except BaseException:
            self.discard()
            raise

    def _connect(self) -> None:
        """In a thread. Whatever fails, the loop gets an UnavailableError."""
        context: Context | None = None
        try:
            self._log_in()
            if self._address.tls:
                # before they are read: a later change counts the next time
                self._tls_files = fingerprint(self._settings.transport)
                context = self._make_context()
                self._client.tls_set_context(context)
            self._client.connect(self._address.host, self._address.port, self._keep_alive)
        except BaseException as error:
            if context and context.made:
                context.made.close()
            raise UnavailableError(reason_of(error)) from error

    def _log_in(self) -> None:
        settings, address = self._settings, self._address
        if settings.client_username:
            self._client.username_pw_set(settings.client_username, settings.client_password or None)
        elif address.user:
            self._client.username_pw_set(address.user, address.password or None)
        if settings.will_topic:
            self._client.will_set(settings.will_topic, settings.will_message.encode(), 1, retain=False)

    def _make_context(self) -> Context:
        """Raises UnavailableError: the files may be correct at the next attempt."""
        try:
            files, alpn = self._settings.transport, self._settings.alpn
            context = make_context(files, system_cas=False, alpn=alpn, kind=Context)
        except InvalidInputError as error:
            raise UnavailableError(f"connection.transport.{error}") from None
        return context  # type: ignore[return-value]

    def _callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_connect": self._on_connect,
            "on_disconnect": self._on_disconnect,
            "on_publish": self._on_acknowledge,
            "on_unsubscribe": self._on_acknowledge,
            "on_subscribe": self._on_subscribe,
            "on_message": self._on_packet,
            "on_socket_register_write": self._on_want_write,
            "on_socket_unregister_write": self._on_no_write,
            "on_socket_close": self._on_socket_close,
        }

    def _attach(self) -> None:
        """Let the loop call paho from now on."""
        client = self._client
        self._socket = client.socket()
        if self._socket is None:
            raise ConnectionResetError
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, callback in self._callbacks().items():
            setattr(client, name, callback)
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
            # only a new connection, on which everything is sent again, is certain to be complete
            self.discard(text, blame=True)
            raise UnavailableError(text) from None
        finally:
            self._acknowledged.pop(mid, None)

    @property
    def is_local(self) -> bool:
        """The broker is on this machine: both ends of the connection have the same address."""
        try:
            return bool(self._socket.getsockname()[0] == self._socket.getpeername()[0])
        except (AttributeError, OSError):  # lost
            return False

    async def close(self) -> None:
        """Send a DISCONNECT and close the socket, within the configured time."""
        if not self.lost.done():
            self._client.disconnect()
            await asyncio.wait({self.lost}, timeout=self._settings.disconnect_timeout)
        self.discard("closed")

    def discard(self, reason: str = "given up", *, blame: bool = False) -> None:
        """Close the socket without a DISCONNECT; every waiting call fails. May be called again.

        *blame*: one of the unacknowledged requests may be the reason.
        """
        for name in self._callbacks():
            setattr(self._client, name, None)
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
        """paho raises on malformed packets, and 1.6 on some socket errors: the loop would call it again and again."""
        self._last_received = self._loop.time()
        try:
            # OpenSSL may hold what the socket no longer shows as readable
            for _ in range(_PACKETS):
                self._client.loop_read()
                if (sock := self._client.socket()) is None or not getattr(sock, "pending", int)():
                    return
            self._loop.call_soon(self._readable)
        except Exception as error:  # noqa: BLE001  whatever a malformed packet causes
            self._broken(error)

    def _writable(self) -> None:
        self._last_sent = self._loop.time()
        try:
            self._client.loop_write()
        except Exception as error:  # noqa: BLE001  whatever a malformed packet causes
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        log.debug("MQTT: unexpected error", exc_info=error)
        self.discard(
            f"{type(error).__name__}, perhaps of a malformed packet: {shorten(str(error))}", blame=True
        )

    def _schedule_ping(self) -> None:
        now = self._loop.time()
        due = min(self._last_sent, self._last_received) + self._keep_alive + _PING_SLACK
        self._ping_timer = self._loop.call_at(max(due, now + _PING_PAUSE), self._ping)

    def _ping(self) -> None:
        now = self._loop.time()
        if now >= min(self._last_sent, self._last_received) + self._keep_alive:
            self._last_sent = self._last_received = now
            self._client.loop_misc()
        if not self.lost.done():
            self._schedule_ping()
            self._check_tls_files()
            if self._on_ping:
                self._on_ping()

    def _check_tls_files(self) -> None:
        """With the pings, so that it needs no wake-up of its own."""
        if self._address.tls and (found := fingerprint(self._settings.transport)) != self._tls_files:
            self._tls_files = found
            threading.Thread(target=self._try_tls_files, name="mqtt-files", daemon=True).start()

    def _try_tls_files(self) -> None:
        """A working connection survives invalid files."""
        try:
            self._make_context()
        except UnavailableError as error:
            log.warning("MQTT: TLS files changed, but cannot be used: %s (the connection stays)", error)
            return
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self.discard, "its TLS files have changed")

    # ── called by paho; the arguments after the named ones differ between its versions ──

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, result: Any, *_: Any) -> None:
        if self._accepted.done():
            return
        if code := paho.code(result):
            self._accepted.set_exception(UnavailableError(refusal_of(code)))
        else:
            self._accepted.set_result(None)

    def _on_disconnect(self, *_: Any) -> None:
        if not self._accepted.done():
            text = "the broker closed the connection before accepting it"
            self._accepted.set_exception(UnavailableError(text))
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
            log.warning("MQTT: message ignored: its topic is not valid UTF-8")
            return
        self._on_message(topic, bytes(message.payload), bool(message.retain))

    def _on_want_write(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock, self._writable)

    def _on_no_write(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _on_socket_close(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
