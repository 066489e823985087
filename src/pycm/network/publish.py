# SPDX-License-Identifier: Apache-2.0
"""Ports of containers on the machine: what may be asked for, which one of a range is free, who holds one that is not."""

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
#: Ports that are tried for one container; each costs some microseconds.
MOST_PROBES = 2 * 65536
#: Error numbers of a bind that say nothing about whether the port is free.
_UNKNOWN = (errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT)


class Wanted(NamedTuple):
    """A mapping as it was asked for, checked: any host port of the range will do. host_ip "" means all addresses."""

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
    """InvalidInputError that names the mapping, for what cannot be published."""
    return tuple(_wanted(mapping) for mapping in mappings)


def _wanted(mapping: PortMapping) -> Wanted:
    proto = (mapping.proto or "tcp").lower()
    last = mapping.host_port_end or mapping.host_port
    found = Wanted(proto, _host_ip(mapping.host_ip), mapping.host_port, last, mapping.container_port)
    if proto not in PROTOCOLS:
        raise InvalidInputError(
            f"port mapping {found}: protocol {shorten(proto)} is none of {', '.join(PROTOCOLS)}"
        )
    if not found.first or not found.container_port:
        raise InvalidInputError(f"port mapping {found}: ports are from 1 to 65535")
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
            f"port mapping: host_ip {shorten(text)} is neither localhost nor an IPv4 address of this machine"
        ) from None
    return "" if address.is_unspecified else str(address)


def choose(
    asked: Sequence[Wanted], others: Mapping[str, Sequence[Published]], container_id: str
) -> tuple[Published, ...]:
    """For each mapping the first port of its range that is free on the machine. *others*: what containers have, by their id.

    Opens sockets and may search all processes: not for the event loop. ConflictError names the port and who holds it.
    """
    search = _PortSearch(others, container_id)
    return tuple(map(search.first_free, asked))


class _PortSearch:
    """For the ports of one container. Each port is looked at once for each protocol and address, however many ranges name it."""

    def __init__(self, others: Mapping[str, Sequence[Published]], container_id: str) -> None:
        self._id = container_id
        #: Protocol and port -> address -> who has it.
        self._holders: dict[tuple[str, int], dict[str, str]] = {}
        #: Protocol and address -> port that is taken -> a later one, which may be free.
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
            while (
                port in later
            ):  # over what earlier mappings have found taken; the way is shortened for the next
                later[port] = port = later.get(later[port], later[port])
            if port > want.last:
                raise self._taken(want)
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
            raise ConflictError(f"port mapping {want}: no free port among {MOST_PROBES} that were tried")
        return not _bound(port)

    def _container(self, port: Published) -> str:
        """The holder of a port that *port* overlaps: one without an address is on all of them."""
        holders = self._holders.get((port.proto, port.host_port), {})
        if not port.host_ip:
            return next(iter(holders.values()), "")
        return holders.get(port.host_ip) or holders.get("", "")

    def _taken(self, want: Wanted) -> ConflictError:
        """Says of the first port of the range who has it: to search all processes for each port takes long."""
        first = Published(want.proto, want.host_ip, want.first, want.container_port)
        container = self._container(first)
        holder = f"container {container}" if container else _program(first)
        more = "" if want.first == want.last else f", and so are the others up to {want.last}"
        return ConflictError(
            f"port mapping {want}: host port {want.first}/{want.proto} is taken by {holder}{more}"
        )


def _bound(port: Published) -> bool:
    """Whether a program has the port. ConflictError if the machine does not have the address."""
    kind = _KINDS.get(port.proto)
    if kind is None:
        return False
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:  # connections that have ended hold no port
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
    """As "pid 12 (nginx)"; "another program" if it cannot be seen."""
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
    """Of a table as /proc/net/tcp: the sockets that are bound to *port*, as /proc/PID/fd names them."""
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[1].endswith(f":{port:04X}") and (words[3] == _LISTEN or not listening):
            found.add(f"socket:[{words[9]}]")
    return found
