# SPDX-License-Identifier: Apache-2.0
"""Ports of containers on the machine: which mappings are valid, which port of a range is free, who has the others."""

from __future__ import annotations

import errno
import glob
import os
import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from pycm.errors import ConflictError, InvalidInputError, shorten
from pycm.network.conf import Published

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pycm.model.container import PortMapping

PROTOCOLS = ("tcp", "udp", "sctp")
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_LISTEN = "0A"
#: Ports that are probed for one container. Each probe takes some microseconds.
MOST_PROBES = 2 * 65536
#: Errors of a bind that do not tell whether the port is free.
_UNKNOWN = (errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT)


class Wanted(NamedTuple):
    """A valid mapping of a description: any host port of the range is good. host_ip "" means all addresses."""

    proto: str
    host_ip: str
    first: int
    last: int
    container_port: int

    def __str__(self) -> str:
        where = f"{self.host_ip}:" if self.host_ip else ""
        ports = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"{where}{ports}:{self.container_port}/{self.proto}"


def wanted(mappings: Iterable[PortMapping]) -> tuple[Wanted, ...]:
    """Check the mappings of a description. InvalidInputError names the invalid one."""
    return tuple(_wanted(mapping) for mapping in mappings)


def _wanted(mapping: PortMapping) -> Wanted:
    proto = (mapping.proto or "tcp").lower()
    last = mapping.host_port_end or mapping.host_port
    found = Wanted(proto, _host_ip(mapping.host_ip), mapping.host_port, last, mapping.container_port)
    if proto not in PROTOCOLS:
        raise InvalidInputError(
            f"port mapping {found}: protocol must be one of {', '.join(PROTOCOLS)}, got {shorten(proto)}"
        )
    if not found.first or not found.container_port:
        raise InvalidInputError(f"port mapping {found}: ports must be between 1 and 65535")
    if found.last < found.first:
        raise InvalidInputError(f"port mapping {found}: the range ends before it begins")
    return found


def _host_ip(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    if not text:
        return ""
    try:
        address = IPv4Address(text)
    except ValueError:
        raise InvalidInputError(
            f"port mapping: host_ip must be localhost or an IPv4 address of this machine, got {shorten(text)}"
        ) from None
    return "" if address.is_unspecified else str(address)


def choose(
    asked: Sequence[Wanted], others: Mapping[str, Sequence[Published]], container_id: str
) -> tuple[Published, ...]:
    """For each mapping, the first port of its range that is free on the machine. *others*: ports of containers, by
    their id.

    Opens sockets and may search all processes, so do not call it on the event loop. ConflictError names the port and
    its holder.
    """
    search = _PortSearch(others, container_id)
    return tuple(map(search.first_free, asked))


class _PortSearch:
    """The search for one container. It probes a port once for each protocol and address."""

    def __init__(self, others: Mapping[str, Sequence[Published]], container_id: str) -> None:
        self._id = container_id
        #: (protocol, port) -> address -> holder.
        self._holders: dict[tuple[str, int], dict[str, str]] = {}
        #: (protocol, address) -> port in use -> a later port, which may be free.
        self._next: dict[tuple[str, str], dict[int, int]] = {}
        self._probes = 0
        for name, ports in others.items():
            for port in ports:
                self._hold(port, name)

    def _hold(self, port: Published, holder: str) -> None:
        self._holders.setdefault((port.proto, port.host_port), {})[port.host_ip] = holder

    def first_free(self, want: Wanted) -> Published:
        later = self._next.setdefault((want.proto, want.host_ip), {})
        port = want.first
        while True:
            while port in later:  # skip what is in use, and shorten the path for the next mapping
                later[port] = port = later.get(later[port], later[port])
            if port > want.last:
                raise self._in_use(want)
            candidate = Published(want.proto, want.host_ip, port, want.container_port)
            later[port] = port + 1
            if self._is_free(candidate, want):
                self._hold(candidate, self._id)
                return candidate

    def _is_free(self, port: Published, want: Wanted) -> bool:
        if self._container(port):
            return False
        self._probes += 1
        if self._probes > MOST_PROBES:
            raise ConflictError(f"port mapping {want}: no free port among the first {MOST_PROBES}")
        return not _bound(port)

    def _container(self, port: Published) -> str:
        """The container with a port that *port* overlaps, "" for none. A port without an address is on all of them."""
        holders = self._holders.get((port.proto, port.host_port), {})
        if not port.host_ip:
            return next(iter(holders.values()), "")
        return holders.get(port.host_ip) or holders.get("", "")

    def _in_use(self, want: Wanted) -> ConflictError:
        """The error, with the holder of the range's first port: searching all processes for every port takes long."""
        first = Published(want.proto, want.host_ip, want.first, want.container_port)
        container = self._container(first)
        holder = f"container {container}" if container else _program(first)
        more = "" if want.first == want.last else f", and the others up to {want.last} are in use too"
        return ConflictError(
            f"port mapping {want}: host port {want.first}/{want.proto} is in use by {holder}{more}"
        )


def _bound(port: Published) -> bool:
    """Whether a program has the port. ConflictError if the address is not the machine's."""
    kind = _KINDS.get(port.proto)
    if kind is None:
        return False
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:  # closed connections do not hold a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host_ip, port.host_port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConflictError(
                    f"port mapping: host_ip {port.host_ip} is not an address of this machine"
                ) from None
            return error.errno not in _UNKNOWN
    return False


def _program(port: Published) -> str:
    """The program with the port, such as "pid 12 (nginx)", or "another program" if it is not visible."""
    inodes = set()
    for version in ("", "6"):
        try:
            with open(f"/proc/net/{port.proto}{version}", encoding="ascii", errors="replace") as file:
                inodes |= parse_sockets(file.read(), port.host_port, listening=port.proto == "tcp")
        except OSError:
            continue
    for path in glob.iglob("/proc/[0-9]*/fd/*") if inodes else ():
        try:
            if os.readlink(path) in inodes:
                pid = path.split("/")[2]
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    return f"pid {pid} ({file.read().strip()})"
        except OSError:
            continue
    return "another program"


def parse_sockets(table: str, port: int, *, listening: bool) -> set[str]:
    """The sockets in a table such as /proc/net/tcp that are bound to *port*, by their names in /proc/PID/fd."""
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[1].endswith(f":{port:04X}") and (words[3] == _LISTEN or not listening):
            found.add(f"socket:[{words[9]}]")
    return found
