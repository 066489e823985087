# SPDX-License-Identifier: Apache-2.0
"""Addresses of HTTP servers: read, compared, and where a redirect may lead. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from pycm.errors import OperationFailedError, shorten

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
