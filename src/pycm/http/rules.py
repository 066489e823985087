# SPDX-License-Identifier: Apache-2.0
"""Rules of HTTP for a client: addresses, logins, parts of a file, and when to try again. No I/O."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

from pycm.errors import OperationFailedError, UnavailableError, shorten
from pycm.waiting import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from email.message import Message

T = TypeVar("T")

# ── addresses ──

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
#: Characters of the longest address that is used or followed; signed addresses of object stores have 2 KiB.
ADDRESS_LIMIT = 8192
#: Characters that are not escaped. As Go's clients do, pycm escapes blanks, controls and everything beyond ASCII.
_AS_IT_IS = "!#$%&'()*+,/:;=?@[]~"
#: Prefix of NAT64 (RFC 6052): the last four bytes are the IPv4 address. A network without IPv4 has no other way.
_NAT64 = "64:ff9b::/96"
#: These look public, but lead through a translation or a tunnel to an IPv4 address (RFC 8215, 3056, 4380).
_TRANSLATED = ("64:ff9b:1::/48", "2002::/16", "2001::/32")


class Address(NamedTuple):
    """The address of a server and of a file on it. `path` includes the query, escaped as in a request."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """The value of a Host header, without the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return the address for messages: without the query, which holds the secrets of signed addresses."""
        return f"{self.scheme}://{self.netloc}{self.path.partition('?')[0]}"


def parse_address(text: str) -> Address:
    """Read *text*. OperationFailedError if it is not an http or https address."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    plain = text.isascii() and all(" " < character < "\x7f" for character in text)
    if len(text) > ADDRESS_LIMIT or not host or parts.scheme not in PORTS or not plain:
        raise _not_an_address(text)
    path = parts.path or "/"
    return Address(
        parts.scheme,
        host,
        port if port is not None else PORTS[parts.scheme],
        f"{path}?{parts.query}" if parts.query else path,
    )


def _not_an_address(text: str) -> OperationFailedError:
    return OperationFailedError(f"not an http or https address: {shorten(text.partition('?')[0])}")


def relative_to(base: Address, text: str) -> Address:
    """Return the address in a header of an answer from *base*: complete, relative or with unescaped characters."""
    try:
        parts = urlsplit(urljoin(f"{base.scheme}://{base.netloc}{base.path}", text.strip()))
    except ValueError:
        raise _not_an_address(text) from None
    # http.client decodes headers as Latin-1, so encoding them again gives the bytes that were sent
    path, query = (
        quote(part.encode("latin-1", "replace"), safe=_AS_IT_IS) for part in (parts.path, parts.query)
    )
    return parse_address(f"{parts.scheme}://{parts.netloc}{path}{'?' if query else ''}{query}")


def redirected(address: Address, location: str | None) -> Address:
    """Return the target of a redirect from *address*. A redirect from https to http is refused."""
    if not location:
        raise OperationFailedError(f"{address} redirects without a Location header")
    try:
        target = relative_to(address, location)
    except OperationFailedError as error:
        raise OperationFailedError(f"{address} redirects: {error}") from None
    if address.scheme == "https" and target.scheme == "http":
        raise OperationFailedError(f"{address} redirects to {target}: not followed from https to plain http")
    return target


def is_loopback(host: str) -> bool:
    """Check whether *host*, as in an address, is this machine."""
    parts = host.split(".")
    numbers = len(parts) == 4 and all(part.isdecimal() for part in parts)
    return host in ("localhost", "::1") or (numbers and parts[0] == "127")


def is_public(ip: str) -> bool:
    """Check that *ip* is a unicast address of the internet, not private, shared, local, reserved or translated."""
    from ipaddress import (  # only where private addresses are denied
        IPv4Address,
        IPv6Address,
        ip_address,
        ip_network,
    )

    address = ip_address(ip.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address in ip_network(_NAT64):
            return is_public(str(IPv4Address(address.packed[-4:])))
        if address.is_site_local or any(address in ip_network(net) for net in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


# ── logins ──

#: Characters of a WWW-Authenticate header that are read, and of the longest token that is used.
CHALLENGE_LIMIT, TOKEN_LIMIT = 8192, 32768
# No two parts of a pattern match the same characters, so the time is linear in the length of the header.
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=[\s,]|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_UNREADABLE = re.compile(r"[\s,]*[^,]*")


class Challenge(NamedTuple):
    """A login method that a server offers; `scheme` in lower case."""

    scheme: str
    parameters: Mapping[str, str] = {}


class Login(NamedTuple):
    user: str = ""
    password: str = ""

    def __bool__(self) -> bool:
        return bool(self.user or self.password)

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


def read_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return what WWW-Authenticate headers offer. Unreadable parts, up to the next comma, are skipped."""
    found = []
    for header in headers:
        text, place = header[:CHALLENGE_LIMIT], 0
        while place < len(text):
            scheme = _SCHEME.match(text, place)
            if scheme is None:
                place = max(_UNREADABLE.match(text, place).end(), place + 1)  # type: ignore[union-attr]
                continue
            place = scheme.end()
            parameters = {}
            while item := _PARAMETER.match(text, place):
                value = item[3] if item[2] is None else re.sub(r"\\(.)", r"\1", item[2])
                parameters[item[1].lower()] = value
                place = item.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return found


def make_basic(login: Login) -> str:
    """Return the Authorization header for a password."""
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def make_token_address(challenge: Challenge, scope: str, asked: Address, *, secure: bool) -> Address:
    """Return the address of the token service that *asked* named.

    *scope*: one or several, separated by blanks. *secure*: refuse to send the password over plain http.
    """
    try:
        realm = challenge.parameters.get("realm", "")
        address = relative_to(asked, realm) if realm else parse_address(realm)
    except OperationFailedError as error:
        raise OperationFailedError(f"its token service: {error}") from None
    if secure and address.scheme != "https":
        raise OperationFailedError(f"its token service is at {address}: a login is not sent over plain http")
    query = [("service", challenge.parameters.get("service", "")), *(("scope", one) for one in scope.split())]
    words = urlencode([(name, value) for name, value in query if value])
    joined = f"{address.path}{'&' if '?' in address.path else '?'}{words}" if words else address.path
    return address._replace(path=joined)


def read_token(body: bytes) -> str:
    """Return the Authorization header for the token in the answer of a token service."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    value = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not value or len(value) > TOKEN_LIMIT:
        raise OperationFailedError("its token service answered without a token")
    if not value.isascii() or not value.isprintable():
        raise OperationFailedError(f"its token service sent an invalid token ({len(value)} characters)")
    return f"Bearer {value}"


def read_server_message(body: bytes) -> str:
    """Return the cause that a registry or token service gives, shortened to one line; "" without a readable one."""
    try:
        errors = json.loads(body)["errors"]
        first = errors[0]
        text = first.get("message") or first.get("code") or ""
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return shorten(" ".join(str(text)[:400].split()), 160)[1:-1] if text else ""


# ── parts of a file ──

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def make_range_header(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def find_start(status: int, headers: Mapping[str, str] | Message, offset: int, size: int) -> int:
    """Return the offset of the first byte in an answer to a request for what follows *offset* of *size* bytes.

    It is 0 if the server does not support ranges. OperationFailedError if the announced size or place is wrong.
    """
    if status != 206:
        length = headers.get("Content-Length")
        if length is not None and length.strip() != str(size):
            raise OperationFailedError(f"the server has {shorten(length)[1:-1]} bytes, expected {size}")
        return 0
    text = headers.get("Content-Range") or ""
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found or int(found[1]) != offset or found[3] not in ("*", str(size)):
        raise OperationFailedError(
            f"the server sends {shorten(text) if text else 'an unnamed range'}, expected bytes {offset} to {size}"
        )
    return offset


# ── trying again ──

#: Statuses that may be gone a moment later.
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
FIRST_DELAY, LAST_DELAY = 0.5, 20.0
#: Seconds. If a server asks for a longer pause, the request fails and says so.
LONGEST_WAIT = 60.0
#: Attempts in a row without progress.
ATTEMPTS = 6


class TryLaterError(UnavailableError):
    """`after`: seconds that the server asks to wait, None if it does not.

    `answered`: the server is up, but in trouble.
    """

    def __init__(self, text: str, after: float | None = None, *, answered: bool = False) -> None:
        super().__init__(text)
        self.after = after
        self.answered = answered


async def resume(
    attempt: Callable[[], Awaitable[T]],
    gained: Callable[[], int] = lambda: 0,
    *,
    progress: int = 1,
    unreached: int = ATTEMPTS,
    total: float = float("inf"),
) -> T:
    """Repeat *attempt* while it raises UnavailableError, and return its result.

    *gained*: bytes received so far; *progress* more of them start the count of attempts again. *unreached*: attempts
    for a server that does not answer at all. *total*: seconds for everything.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + total
    backoff = Backoff(LAST_DELAY, FIRST_DELAY)
    failures, before = 0, gained()
    while True:
        try:
            return await attempt()
        except UnavailableError as error:
            now = gained()
            if now - before >= progress:
                failures = 0
                backoff.reset()
            failures, before = failures + 1, now
            wanted = getattr(error, "after", None) or 0.0
            pause = max(backoff.next(), wanted)
            limit = ATTEMPTS if getattr(error, "answered", False) else unreached
            if failures >= limit or wanted > LONGEST_WAIT or loop.time() + pause > until:
                raise
            await asyncio.sleep(pause)


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds a number or a date; None without a readable one."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:12])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
