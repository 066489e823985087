# SPDX-License-Identifier: Apache-2.0
"""Rules of HTTP for a client: addresses, logins, parts of a file, retries. Pure."""

from __future__ import annotations

import base64
import json
import random
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urljoin, urlsplit

from pycm.errors import OperationFailedError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from email.message import Message

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
#: Longest address that is used or followed; signed ones of object stores have 2 KiB.
ADDRESS_LIMIT = 8192


@dataclass(frozen=True)
class Address:
    """scheme http or https; path with query, as it stands in a request."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host as the Host header wants it: the port only where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    def __str__(self) -> str:
        """For messages: without the query, in which signed addresses carry secrets."""
        return f"{self.scheme}://{self.netloc}{self.path.partition('?')[0]}"


def parse_address(text: str) -> Address:
    """OperationFailedError if *text* is no http or https address."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if len(text) > ADDRESS_LIMIT or not host or parts.scheme not in PORTS or not _plain(text):
        raise OperationFailedError(f"no http or https address: {shorten(text.partition('?')[0])}")
    path = parts.path or "/"
    return Address(
        parts.scheme,
        host,
        port if port is not None else PORTS[parts.scheme],
        f"{path}?{parts.query}" if parts.query else path,
    )


def _plain(text: str) -> bool:
    return text.isascii() and not any(character <= " " or character == "\x7f" for character in text)


#: Characters of an address that are escaped, as Go's clients do it: blanks, controls, all beyond ASCII, and what no part of one may hold.
_AS_IT_IS = "!#$%&'()*+,/:;=?@[]~"


def relative_to(base: Address, text: str) -> Address:
    """The address that a header of an answer from *base* names: whole, without host or scheme, or with characters to be escaped."""
    try:
        parts = urlsplit(urljoin(f"{base.scheme}://{base.netloc}{base.path}", text.strip()))
    except ValueError:
        raise OperationFailedError(f"no http or https address: {shorten(text.partition('?')[0])}") from None
    # http.client reads headers as Latin-1, whatever they are: the bytes are what was sent
    path, query = (
        quote(part.encode("latin-1", "replace"), safe=_AS_IT_IS) for part in (parts.path, parts.query)
    )
    return parse_address(f"{parts.scheme}://{parts.netloc}{path}{'?' if query else ''}{query}")


def redirected(address: Address, location: str | None) -> Address:
    """Where *location*, a header of an answer from *address*, leads. Never from https to http."""
    if not location:
        raise OperationFailedError(f"{address} redirects to nowhere: a Location header is missing")
    try:
        target = relative_to(address, location)
    except OperationFailedError as error:
        raise OperationFailedError(f"{address} redirects to {error}") from None
    if address.scheme == "https" and target.scheme == "http":
        raise OperationFailedError(f"{address} redirects to {target}: not followed from https to plain http")
    return target


def is_loopback(host: str) -> bool:
    """Is *host*, as it stands in an address, this machine?"""
    parts = host.split(".")
    numbers = len(parts) == 4 and all(part.isdecimal() for part in parts)
    return host in ("localhost", "::1") or (numbers and parts[0] == "127")


#: Prefix of NAT64 (RFC 6052): the last four bytes are the IPv4 address that is reached. A network without IPv4 has no other way.
_NAT64 = "64:ff9b::/96"
#: Public as they look, these lead through a translation or a tunnel to an IPv4 address (RFC 8215, 3056, 4380).
_TRANSLATED = ("64:ff9b:1::/48", "2002::/16", "2001::/32")


def is_public(ip: str) -> bool:
    """Whether *ip* is a unicast address of the internet: not private, shared, loopback, link-local, reserved or translated."""
    from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network  # only for those who ask

    address = ip_address(ip.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address in ip_network(_NAT64):
            return is_public(str(IPv4Address(address.packed[-4:])))
        if address.is_site_local or any(address in ip_network(net) for net in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


#: Longest WWW-Authenticate header that is read, and longest token that is used.
CHALLENGE_LIMIT, TOKEN_LIMIT = 8192, 32768
# No two parts of a pattern can match the same characters: time is linear in the header's length.
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=[\s,]|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_UNREADABLE = re.compile(r"[\s,]*[^,]*")


@dataclass(frozen=True)
class Challenge:
    """One way to log in that a server offers; `scheme` in small letters."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Login:
    user: str = ""
    password: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.password)


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """What WWW-Authenticate headers offer; what cannot be read is left out, up to the next comma."""
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


def basic(login: Login) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def token_address(challenge: Challenge, scope: str, asked: Address, *, secure: bool) -> Address:
    """Where the token is to be had, as *asked* said. With *secure* the password goes over https only, whatever the server says.

    *scope*: one or several with blanks between them.
    """
    try:
        realm = challenge.parameters.get("realm", "")
        address = relative_to(asked, realm) if realm else parse_address(realm)
    except OperationFailedError as error:
        raise OperationFailedError(f"the address of its token service is {error}") from None
    if secure and address.scheme != "https":
        raise OperationFailedError(f"its token service is at {address}: a login is not sent over plain http")
    query = [("service", challenge.parameters.get("service", "")), *(("scope", one) for one in scope.split())]
    words = urlencode([(name, value) for name, value in query if value])
    joined = f"{address.path}{'&' if '?' in address.path else '?'}{words}" if words else address.path
    return Address(address.scheme, address.host, address.port, joined)


def token(body: bytes) -> str:
    """The Authorization header that an answer of a token service makes possible."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    value = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not value or len(value) > TOKEN_LIMIT:
        raise OperationFailedError("its token service answered without a token")
    if not value.isascii() or not value.isprintable():
        raise OperationFailedError(
            f"its token service answered with a token that is none ({len(value)} characters)"
        )
    return f"Bearer {value}"


def server_message(body: bytes) -> str:
    """What a registry or token service says went wrong, on one line, shortened; "" if it says nothing that can be read."""
    try:
        errors = json.loads(body)["errors"]
        first = errors[0]
        text = first.get("message") or first.get("code") or ""
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return shorten(" ".join(str(text)[:400].split()), 160)[1:-1] if text else ""


_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def range_header(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def begins_at(status: int, headers: Mapping[str, str] | Message, offset: int, size: int) -> int:
    """The offset of the first byte of an answer to a request for what follows *offset* of *size* bytes.

    0 where the server does not do parts. OperationFailedError if what it says it sends is not of that size or place.
    """
    if status != 206:
        length = headers.get("Content-Length")
        if length is not None and length.strip() != str(size):
            raise OperationFailedError(f"it has {shorten(length)} bytes at the server, {size} are expected")
        return 0
    text = headers.get("Content-Range") or ""
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found or int(found[1]) != offset or found[3] not in ("*", str(size)):
        raise OperationFailedError(
            f"bytes {offset} to {size} were asked for, the server sends {shorten(text) if text else 'others'}"
        )
    return offset


#: Answers that may be others a moment later.
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
FIRST_DELAY, LAST_DELAY = 0.5, 20.0
#: A server that wants to be left alone for longer than this is taken at its word: the request fails and says so.
LONGEST_WAIT = 60.0
#: Attempts in a row that may bring nothing.
ATTEMPTS = 6


def delay(attempt: int, asked: float | None = None) -> float:
    """Seconds before attempt number *attempt* (the first repetition is 1), at least what the server *asked* for."""
    doubled: float = min(FIRST_DELAY * 2.0 ** (attempt - 1), LAST_DELAY) * random.uniform(0.5, 1)
    return max(doubled, asked or 0.0)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None if there is none that can be read."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:12])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
