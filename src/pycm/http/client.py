# SPDX-License-Identifier: Apache-2.0
"""One request, one connection: sent, redirects followed, answer read piece by piece, each step bounded in time and size.

Nothing is kept between requests: whoever needs many has threads, and a connection that was fine a minute ago is no promise.
Passwords and tokens go to the server that they were given for; a redirect to another one goes without them.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pycm.errors import InvalidInputError, OperationFailedError, UnavailableError, shorten
from pycm.http.rules import REDIRECTS, Address, is_public, redirected
from pycm.storage.files import check_regular

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from pycm.http.rules import Address

HOPS = 5
CONNECT = 30.0  # seconds
HEADERS = 60.0  # from the request to the last header, however slowly they come
IDLE = 30.0  # without a single byte
BUFFER = 64 << 10
HEAD = 512 << 10  # bytes of headers, those of interim (1xx) answers included
BARREN = 1 << 20  # encoded bytes that may bring nothing
#: Headers that are meant for one server only.
PRIVATE = frozenset(("authorization", "cookie"))
AGENT = "pycm"


class Response:
    """An answer; `read` its body, then `close` it (contextlib.closing). `address`: who answered, after redirects.

    A body that comes encoded, though nobody asked for that, is decoded; then `headers` lack its length. `sent`: that length, if given.
    """

    def __init__(self, address: Address, answer: http.client.HTTPResponse, raw: _Raw, closer: Any) -> None:
        self.address = address
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._raw = raw
        self._closer = closer
        self.sent = self._left = _length(answer, address)
        self.encoded = _encoding(answer)
        if self.encoded:
            del self.headers["Content-Length"]
        self._decoder: Any = None
        self._window = 0
        self._failed: UnavailableError | None = None

    def read(self, limit: int, patience: float = 0.5) -> bytes:
        """Up to *limit* bytes: what has come after *patience* seconds, but at least one. b"" at the end, or where it was cut."""
        parts: list[bytes] = []
        room, until = limit, time.monotonic() + patience
        while room > 0 and (self._left != 0 or self.encoded):
            try:
                part = self._part(room)
            except UnavailableError as error:
                if not parts:
                    raise
                self._failed = error  # after what has come
                break
            if not part:
                break
            parts.append(part)
            room -= len(part)
            if time.monotonic() >= until:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, room: int) -> bytes:
        if self._failed is not None:
            raise self._failed
        return self._decoded(room) if self.encoded else self._sent(room)

    def take_as_sent(self) -> None:
        """Leave the body as it comes, before any of it is read: its length says that it is not encoded, whatever a header says."""
        if self.encoded:
            self.encoded = ""
            self.headers["Content-Length"] = str(self.sent)

    def _decoded(self, room: int) -> bytes:
        import zlib  # few servers need it

        data, used = b"", 0
        if self._decoder is None:
            _expect_known(self.address, self.encoded)
            data = self._sent(room)
            window = _window(self.encoded, data)
            if window is None:
                self.encoded = ""
                return data
            self._window, self._decoder = window, zlib.decompressobj(window)
        while used <= BARREN:
            data = data or self._decoder.unconsumed_tail or self._decoder.unused_data or self._sent(BUFFER)
            if not data and self._decoder.eof:
                return b""
            if not data:
                raise UnavailableError(f"{self.address} ended its answer too early")
            if self._decoder.eof:  # gzip files may be written one after the other
                self._decoder = zlib.decompressobj(self._window)
            try:
                part: bytes = self._decoder.decompress(data, room)
            except zlib.error as error:
                raise OperationFailedError(f"{self.address} sends what cannot be decoded: {error}") from None
            if part:
                return part
            used += len(data) - len(self._decoder.unconsumed_tail or self._decoder.unused_data)
            data = b""
        raise OperationFailedError(f"{self.address} sends more than {BARREN} bytes that decode to nothing")

    def _sent(self, room: int) -> bytes:
        self._raw.deadline = time.monotonic() + IDLE
        wanted = room if self._left is None else min(room, self._left)
        try:
            part = self._answer.read1(wanted)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise failure(self.address, error) from None
        if self._left is not None:
            self._left -= len(part)
        return part

    def whole(self, limit: int) -> bytes:
        """The body, of which more than *limit* bytes are an error, as is less than was announced. Slow is as bad as silent."""
        body, until = b"", time.monotonic() + HEADERS
        while part := self.read(limit + 1 - len(body)):
            body += part
            if len(body) > limit:
                raise OperationFailedError(f"{self.address} sends more than {limit} bytes")
            if time.monotonic() > until:
                raise UnavailableError(f"{self.address} did not finish its answer within {HEADERS:g} s")
        if self._left:
            raise UnavailableError(f"{self.address} ended its answer {self._left} bytes too early")
        return body

    def close(self) -> None:
        """From any thread: one that waits for the body is woken."""
        self._raw.stop()
        self._answer.close()
        self._closer()


def failure(address: Address, error: Exception) -> UnavailableError | OperationFailedError:
    """A connection that failed may work later; a server that does not speak HTTP will not."""
    if isinstance(error, TimeoutError):
        return UnavailableError(f"{address} does not answer in time")
    if isinstance(error, OSError):
        reason = getattr(error, "verify_message", None) or error.strerror or getattr(error, "reason", None)
        text = f"{address}: {reason or str(error) or type(error).__name__}"
        # a certificate that is refused now is refused the next time
        return OperationFailedError(text) if hasattr(error, "verify_code") else UnavailableError(text)
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return UnavailableError(f"{address} cut the connection")
    return OperationFailedError(
        f"{address} does not speak HTTP as it should: {shorten(str(error) or type(error).__name__)}"
    )


def _length(answer: http.client.HTTPResponse, address: Address) -> int | None:
    """What Content-Length says, or None. Read by ourselves: http.client ignores nonsense silently."""
    value = answer.headers.get("Content-Length")
    if value is None or answer.chunked:
        return None
    if not value.strip().isdecimal() or len(value) > 18:
        answer.close()
        raise OperationFailedError(f"{address} sends a Content-Length that is none: {shorten(value)}")
    return int(value)


def _encoding(answer: http.client.HTTPResponse) -> str:
    """How the body is encoded, "" for not at all."""
    names = ",".join(answer.headers.get_all("Content-Encoding") or ()).lower().split(",")
    return ",".join(name for word in names if (name := word.strip()) not in ("", "identity"))


def _expect_known(address: Address, encoding: str) -> None:
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise OperationFailedError(
            f"{address} sends its answer encoded as {shorten(encoding)}, which was not asked for"
        )


def _window(encoding: str, data: bytes) -> int | None:
    """What zlib wants to be given for a body that begins with *data*; None if it is not encoded: web servers label files by their names.

    gzip and zlib are known by their first two bytes; JSON never begins so. Some servers, and Go, mean by deflate what has no such header.
    """
    import zlib

    begins = int.from_bytes(data[:2], "big")
    if data[:1] == b"\x1f" or (data[:1] and data[0] & 0x0F == 8 and (len(data) == 1 or begins % 31 == 0)):
        return 32 + zlib.MAX_WBITS
    if encoding != "deflate" or data[:1] in (b"", b"{"):
        return None
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        decoder.decompress(data, BUFFER)
    except zlib.error:
        return None
    return None if decoder.unused_data else -zlib.MAX_WBITS


class _Raw(io.RawIOBase):
    """A socket's bytes until a deadline: a time-out of the socket alone would let a server send a byte now and then, for ever."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.deadline = time.monotonic() + HEADERS
        #: Bytes that may still come before the body; None: the body has begun.
        self.head: int | None = HEAD

    def readable(self) -> bool:
        return True

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            # of the connection itself: TLS's own way would wait for the other side
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(min(left, IDLE))
        count = self._socket.recv_into(buffer)
        if self.head is not None:
            self.head -= count
            if self.head < 0:
                raise ValueError(f"more than {HEAD} bytes of headers")
        return count


def _connect(found: list[str], port: int) -> socket.socket:
    """To the first of the addresses that answers."""
    failure: OSError | None = None
    for ip in found:
        try:
            return socket.create_connection((ip, port), CONNECT)
        except OSError as error:
            failure = failure or error
    raise failure or OSError(0, "the name has no address")


class _Source:
    """What HTTPResponse takes for a socket."""

    def __init__(self, raw: _Raw) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self._raw, BUFFER)


class Http:
    """Requests with one TLS configuration. *home*: the host that may see the client certificate.

    Without *private* only public addresses are connected to, at each redirect again. Proxies are not used then: they resolve names.
    """

    def __init__(self, files: Tls | None = None, home: str = "", *, private: bool = True) -> None:
        self._files = files or Tls()
        self._home = home
        self._private = private
        self._contexts: dict[bool, Any] = {}

    def get(self, address: Address, headers: Mapping[str, str] | None = None) -> Response:
        """The answer after redirects, whatever its status. UnavailableError: try later; OperationFailedError: pointless."""
        headers = dict(headers or {})
        for _ in range(HOPS + 1):
            response = self._once(address, headers)
            if response.status not in REDIRECTS:
                return response
            response.close()
            target = redirected(address, response.headers.get("Location"))
            if target.origin != address.origin:
                headers = {name: value for name, value in headers.items() if name.lower() not in PRIVATE}
            address = target
        raise OperationFailedError(f"{address} redirects more than {HOPS} times")

    def _once(self, address: Address, headers: Mapping[str, str]) -> Response:
        connection = self._connection(address)
        answer: http.client.HTTPResponse | None = None
        try:
            if not self._private:
                connection.sock = self._public_socket(address)
            path = address.path
            if isinstance(connection, PlainProxyConnection):
                path = f"http://{address.netloc}{address.path}"
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            sent = {
                "Host": address.netloc,
                "User-Agent": AGENT,
                "Connection": "close",
                "Accept-Encoding": "identity",
            }
            for name, value in {**sent, **proxy_headers(connection), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.sock is not None
            raw = _Raw(connection.sock)
            answer = http.client.HTTPResponse(_Source(raw), method="GET")  # type: ignore[arg-type]
            answer.begin()
            raw.head = None
            return Response(address, answer, raw, connection.close)
        except BaseException as error:
            if answer is not None:
                answer.close()
            connection.close()
            if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
                raise failure(address, error) from None
            raise

    def _connection(self, address: Address) -> http.client.HTTPConnection:
        proxy = proxy_of(address) if self._private else None
        if address.scheme == "http":
            if proxy:
                return PlainProxyConnection(proxy, CONNECT)
            return http.client.HTTPConnection(address.host, address.port, timeout=CONNECT)
        context = self._context(client=address.host == self._home)
        if proxy:
            return tunnel(proxy, address, context, CONNECT)
        return http.client.HTTPSConnection(address.host, address.port, timeout=CONNECT, context=context)

    def _public_socket(self, address: Address) -> socket.socket:
        """Resolves the name once and connects to what it has checked: a second answer of the resolver cannot differ."""
        found = [
            str(entry[4][0])
            for entry in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        ]
        for ip in found:
            if not is_public(ip):
                raise OperationFailedError(f"{address} is at {ip}: denied by things.private_downloads")
        sock = _connect(found, address.port)
        if sock.getpeername()[0] == sock.getsockname()[0]:
            sock.close()
            raise OperationFailedError(f"{address} is this machine: denied by things.private_downloads")
        if address.scheme == "http":
            return sock
        try:
            wrapped: socket.socket = self._context(client=False).wrap_socket(
                sock, server_hostname=address.host
            )
        except BaseException:
            sock.close()
            raise
        return wrapped

    def _context(self, *, client: bool) -> Any:
        if client not in self._contexts:
            self._contexts[client] = make_context(self._files, client=client)
        return self._contexts[client]


_NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


class Proxy:
    """host, port and, where the variable holds a login, the header that shows it."""

    def __init__(self, variable: str, text: str) -> None:
        try:
            parts = urlsplit(text if "//" in text else f"//{text}")
            host, port = parts.hostname, parts.port or 3128
        except ValueError:
            host, port = None, 0
        if not host or parts.scheme not in ("", "http"):
            raise InvalidInputError(
                f"{variable} in the environment of the agent is no proxy's address (http://host:port)"
            )
        self.host, self.port = host, port
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Proxy-Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()


class PlainProxyConnection(http.client.HTTPConnection):
    """To a proxy that is asked for whole addresses."""

    def __init__(self, proxy: Proxy, timeout: float) -> None:
        super().__init__(proxy.host, proxy.port, timeout=timeout)
        self.headers = proxy.headers


def proxy_headers(connection: http.client.HTTPConnection) -> dict[str, str]:
    """What the proxy itself wants to see in each request."""
    return connection.headers if isinstance(connection, PlainProxyConnection) else {}


def tunnel(proxy: Proxy, address: Address, context: Any, timeout: float) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=context)
    connection.set_tunnel(address.host, address.port, headers=proxy.headers)
    return connection


def proxy_of(address: Address) -> Proxy | None:
    if not any(os.environ.get(name) for name in _NAMES):
        return None
    from urllib import request  # 1 MiB: only where there is a proxy

    if request.proxy_bypass(f"{address.host}:{address.port}"):
        return None
    text = request.getproxies_environment().get(address.scheme)
    return Proxy(f"{address.scheme}_proxy", text) if text else None


@dataclass(frozen=True)
class Tls:
    """PEM files: root_ca beside the machine's authorities; client_cert and client_key together. verify false: anybody is believed."""

    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    verify: bool = True


def make_context(tls: Tls, *, client: bool) -> ssl.SSLContext:
    """*client*: show the client certificate. InvalidInputError names the file that cannot be used; TLS 1.2 is the least."""
    import ssl  # 3 MiB: only for those who use it

    made = ssl.create_default_context()
    # from Python 3.13 on, authorities without all extensions of RFC 5280 are refused: many that devices were given lack one
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        return made
    if tls.root_ca:
        try:
            check_regular(tls.root_ca)
            made.load_verify_locations(tls.root_ca)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise InvalidInputError(
                f"root_ca {shorten(tls.root_ca)} cannot be used: {_reason(error)}"
            ) from None
    if bool(tls.client_cert) != bool(tls.client_key):
        raise InvalidInputError("client_cert and client_key are needed both, only one is set")
    if client and tls.client_cert:
        try:
            for path in (tls.client_cert, tls.client_key):
                check_regular(path)
            # a key that asks for a passphrase must not wait for a terminal
            made.load_cert_chain(tls.client_cert, tls.client_key, password=lambda: b"")
        except (OSError, ValueError) as error:
            files = f"{shorten(tls.client_cert)} with client_key {shorten(tls.client_key)}"
            raise InvalidInputError(f"client_cert {files} cannot be used: {_reason(error)}") from None
    return made


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or "no PEM file"
