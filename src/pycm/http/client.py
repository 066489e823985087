# SPDX-License-Identifier: Apache-2.0
"""GET requests, one connection each, with redirects and proxies; every step has a bound on time and size.

Connections are not kept: a connection that worked a minute ago may be gone, and callers that need many requests use
threads. Passwords and tokens are sent to the server for which they are meant; a redirect to another server drops them.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pycm.errors import InvalidInputError, OperationFailedError, UnavailableError, shorten
from pycm.http.rules import REDIRECTS, Address, Login, is_public, make_basic, redirected
from pycm.tls import TlsFiles, make_context

if TYPE_CHECKING:
    from collections.abc import Mapping

HOPS = 5
CONNECT = 30.0  # seconds
HEADERS = 60.0  # seconds from the request to the last header, however slowly they arrive
IDLE = 30.0  # seconds without a single byte
BUFFER = 64 << 10
HEAD = 512 << 10  # bytes of headers, including those of interim (1xx) answers
BARREN = 1 << 20  # encoded bytes that decode to nothing
#: Headers that are meant for one server only.
PRIVATE = frozenset(("authorization", "cookie"))
#: Variables of the environment that name proxies.
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


class Response:
    """An answer: `read` its body, then `close` it (contextlib.closing). `address`: the server after redirects.

    A body that arrives encoded, though pycm does not request that, is decoded; `headers` then lack the length. `sent`:
    the announced length, None if there is none.
    """

    def __init__(self, address: Address, answer: http.client.HTTPResponse, raw: _Raw, closer: Any) -> None:
        self.address = address
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._raw = raw
        self._closer = closer
        self.sent = self._left = _read_length(answer, address)
        self.encoded = _read_encoding(answer)
        if self.encoded:
            del self.headers["Content-Length"]
        self._decoder: Any = None
        self._window = 0
        self._failed: UnavailableError | None = None

    def read(self, limit: int, patience: float = 0.5) -> bytes:
        """Return up to *limit* bytes: what arrives within *patience* seconds, but at least one.

        b"" at the end, or where the connection was cut.
        """
        parts: list[bytes] = []
        room, until = limit, time.monotonic() + patience
        while room > 0 and (self._left != 0 or self.encoded):
            try:
                part = self._part(room)
            except UnavailableError as error:
                if not parts:
                    raise
                self._failed = error  # raised by the next call
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
        return self._decode(room) if self.encoded else self._receive(room)

    def take_as_sent(self) -> None:
        """Do not decode the body, of which nothing was read yet: its length shows that the header is wrong."""
        if self.encoded:
            self.encoded = ""
            self.headers["Content-Length"] = str(self.sent)

    def _decode(self, room: int) -> bytes:
        import zlib  # few servers need it

        data, used = b"", 0
        if self._decoder is None:
            if self.encoded not in ("gzip", "x-gzip", "deflate"):
                raise OperationFailedError(
                    f"{self.address} sends its answer encoded as {shorten(self.encoded)}, expected none"
                )
            data = self._receive(room)
            window = _find_window(self.encoded, data)
            if window is None:
                self.encoded = ""
                return data
            self._window, self._decoder = window, zlib.decompressobj(window)
        while used <= BARREN:
            data = data or self._decoder.unconsumed_tail or self._decoder.unused_data or self._receive(BUFFER)
            if not data and self._decoder.eof:
                return b""
            if not data:
                raise UnavailableError(f"{self.address} ended its answer too early")
            if self._decoder.eof:  # one gzip file may follow another
                self._decoder = zlib.decompressobj(self._window)
            try:
                part: bytes = self._decoder.decompress(data, room)
            except zlib.error as error:
                raise OperationFailedError(
                    f"{self.address} sends data that cannot be decoded: {error}"
                ) from None
            if part:
                return part
            used += len(data) - len(self._decoder.unconsumed_tail or self._decoder.unused_data)
            data = b""
        raise OperationFailedError(f"{self.address} sends more than {BARREN} bytes that decode to nothing")

    def _receive(self, room: int) -> bytes:
        self._raw.deadline = time.monotonic() + IDLE
        wanted = room if self._left is None else min(room, self._left)
        try:
            part = self._answer.read1(wanted)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise explain(self.address, error) from None
        if self._left is not None:
            self._left -= len(part)
        return part

    def whole(self, limit: int) -> bytes:
        """Return the body. More than *limit* bytes, fewer than announced, and a slow body are errors."""
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
        """May be called from any thread: it wakes a thread that waits for the body."""
        self._raw.stop()
        self._answer.close()
        self._closer()


def explain(address: Address, error: Exception) -> UnavailableError | OperationFailedError:
    """Return UnavailableError for a failed connection, OperationFailedError for a server that does not speak HTTP."""
    if isinstance(error, TimeoutError):
        return UnavailableError(f"{address} did not answer in time")
    if isinstance(error, OSError):
        reason = getattr(error, "verify_message", None) or error.strerror or getattr(error, "reason", None)
        text = f"{address}: {reason or str(error) or type(error).__name__}"
        # a refused certificate will be refused again
        return OperationFailedError(text) if hasattr(error, "verify_code") else UnavailableError(text)
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return UnavailableError(f"{address} cut the connection")
    return OperationFailedError(
        f"{address} does not speak valid HTTP: {shorten(str(error) or type(error).__name__)}"
    )


def _read_length(answer: http.client.HTTPResponse, address: Address) -> int | None:
    """Return the Content-Length. http.client silently ignores an invalid one."""
    value = answer.headers.get("Content-Length")
    if value is None or answer.chunked:
        return None
    if not value.strip().isdecimal() or len(value) > 18:
        answer.close()
        raise OperationFailedError(f"{address} sends an invalid Content-Length: {shorten(value)}")
    return int(value)


def _read_encoding(answer: http.client.HTTPResponse) -> str:
    """Return the encodings of the body, "" for none."""
    names = ",".join(answer.headers.get_all("Content-Encoding") or ()).lower().split(",")
    return ",".join(name for word in names if (name := word.strip()) not in ("", "identity"))


def _find_window(encoding: str, data: bytes) -> int | None:
    """Return zlib's window size for a body that begins with *data*; None if it is not encoded.

    Web servers often label files by their names only. The first two bytes identify gzip and zlib; JSON never begins
    like that. Some servers, and Go, send deflate without such a header.
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
    """The bytes of a socket until a deadline. The timeout of a socket alone lets a server send a byte now and then."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.deadline = time.monotonic() + HEADERS
        #: Bytes that may still arrive before the body; None once the body begins.
        self.head: int | None = HEAD

    def readable(self) -> bool:
        return True

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            # the method of the plain socket: that of TLS would wait for the other side
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

    def makefile(self, *_: object) -> io.BufferedReader:
        """Let HTTPResponse use this object as its socket."""
        return io.BufferedReader(self, BUFFER)


class Http:
    """Requests with one TLS configuration. *home*: the host that may see the client certificate.

    Without *private*, only public addresses are connected to, checked again at each redirect. Proxies are not used
    then, because they resolve names.
    """

    def __init__(self, files: TlsFiles | None = None, home: str = "", *, private: bool = True) -> None:
        self._files = files or TlsFiles()
        self._home = home
        self._private = private
        self._contexts: dict[bool, Any] = {}

    def get(self, address: Address, headers: Mapping[str, str] | None = None) -> Response:
        """Return the answer after redirects, with any status.

        UnavailableError if a later attempt may work, OperationFailedError otherwise.
        """
        headers = dict(headers or {})
        for _ in range(HOPS + 1):
            response = self._request(address, headers)
            if response.status not in REDIRECTS:
                return response
            response.close()
            target = redirected(address, response.headers.get("Location"))
            if target.origin != address.origin:
                headers = {name: value for name, value in headers.items() if name.lower() not in PRIVATE}
            address = target
        raise OperationFailedError(f"{address} redirects more than {HOPS} times")

    def _request(self, address: Address, headers: Mapping[str, str]) -> Response:
        connection = self._connection(address)
        answer: http.client.HTTPResponse | None = None
        try:
            if not self._private:
                connection.sock = self._public_socket(address)
            path, own = address.path, {}
            if isinstance(connection, _PlainProxyConnection):
                path, own = f"http://{address.netloc}{address.path}", connection.headers
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            sent = {
                "Host": address.netloc,
                "User-Agent": "pycm",
                "Connection": "close",
                "Accept-Encoding": "identity",
            }
            for name, value in {**sent, **own, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            raw = _Raw(connection.sock)
            answer = http.client.HTTPResponse(raw, method="GET")  # type: ignore[arg-type]
            answer.begin()
            raw.head = None
            return Response(address, answer, raw, connection.close)
        except BaseException as error:
            if answer is not None:
                answer.close()
            connection.close()
            if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
                raise explain(address, error) from None
            raise

    def _connection(self, address: Address) -> http.client.HTTPConnection:
        proxy = _find_proxy(address) if self._private else None
        if address.scheme == "http":
            if proxy:
                return _PlainProxyConnection(proxy)
            return http.client.HTTPConnection(address.host, address.port, timeout=CONNECT)
        context = self._context(client=address.host == self._home)
        host, port = (proxy.host, proxy.port) if proxy else (address.host, address.port)
        connection = http.client.HTTPSConnection(host, port, timeout=CONNECT, context=context)
        if proxy:
            connection.set_tunnel(address.host, address.port, headers=proxy.headers)
        return connection

    def _public_socket(self, address: Address) -> socket.socket:
        """Resolve the name once and connect to what was checked: a second answer of the resolver could differ."""
        entries = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        found = [str(entry[4][0]) for entry in entries]
        for ip in found:
            if not is_public(ip):
                raise OperationFailedError(f"{address} is at {ip}: denied by things.private_downloads")
        sock = _connect(found, address.port)
        try:
            if sock.getpeername()[0] == sock.getsockname()[0]:
                raise OperationFailedError(f"{address} is this machine: denied by things.private_downloads")
            if address.scheme == "http":
                return sock
            context = self._context(client=False)
            wrapped: socket.socket = context.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
        return wrapped

    def _context(self, *, client: bool) -> Any:
        if client not in self._contexts:
            self._contexts[client] = make_context(self._files, system_cas=True, show_cert=client)
        return self._contexts[client]


def _connect(found: list[str], port: int) -> socket.socket:
    """Connect to the first of the addresses that answers."""
    failure: OSError | None = None
    for ip in found:
        try:
            return socket.create_connection((ip, port), CONNECT)
        except OSError as error:
            failure = failure or error
    raise failure or OSError(0, "the name has no address")


# ── proxies ──


class _Proxy:
    """Host and port of a proxy, and the header for the login that its variable may hold."""

    def __init__(self, variable: str, text: str) -> None:
        try:
            parts = urlsplit(text if "//" in text else f"//{text}")
            host, port = parts.hostname, parts.port or 3128
        except ValueError:
            host, port = None, 0
        if not host or parts.scheme not in ("", "http"):
            raise InvalidInputError(
                f"{variable} in the agent's environment is not the address of a proxy, expected http://host:port"
            )
        self.host, self.port = host, port
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            login = Login(unquote(parts.username), unquote(parts.password or ""))
            self.headers["Proxy-Authorization"] = make_basic(login)


class _PlainProxyConnection(http.client.HTTPConnection):
    """A connection to a proxy that expects whole addresses in requests, and `headers` of its own."""

    def __init__(self, proxy: _Proxy) -> None:
        super().__init__(proxy.host, proxy.port, timeout=CONNECT)
        self.headers = proxy.headers


def _find_proxy(address: Address) -> _Proxy | None:
    if not any(os.environ.get(name) for name in _PROXIES):
        return None
    from urllib import request  # 1 MiB, only where there is a proxy

    if request.proxy_bypass(f"{address.host}:{address.port}"):
        return None
    text = request.getproxies_environment().get(address.scheme)
    return _Proxy(f"{address.scheme}_proxy", text) if text else None
