# SPDX-License-Identifier: Apache-2.0
"""Bound what clients may use, whichever language they speak: connections, memory, time, and lines in the log."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pycm.api")

#: Clients connected at one time, and of these with one uid (unix socket) or address (TCP). At a bound, the client
#: that has been without a call for longest makes room for a new one. A gRPC client has at most 100 calls open
#: (HTTP/2 setting of grpclib), a client of the JSON API one.
MAX_CONNECTIONS, MAX_PER_PEER = 512, 128
#: Bytes that the unread requests of all clients may take, and what an open call takes besides. Beyond that, the
#: agent disconnects the client with most of them.
MAX_HELD, CALL_COST = 32 * 1024 * 1024, 20 * 1024
#: Calls of one peer that may read a long request at the same time, and the size in bytes from which a request is
#: long.
LARGE_AT_ONCE, SMALL = 4, 64 * 1024
#: Seconds until a new client has introduced itself: preface and settings of HTTP/2, or the head of its first request.
#: Seconds for a frame or a head once it has begun, without a call, and to read the rest once the connection ends.
#: gRPC's clients end a connection themselves after 30 minutes without a call.
GREETING_TIMEOUT, FRAME_TIMEOUT, IDLE_TIMEOUT, CLOSING_TIMEOUT = 10.0, 30.0, 3600.0, 2.0
#: Complaints about clients in the log, at most, in so many seconds.
COMPLAINTS, COMPLAINTS_PERIOD = 10, 60.0
#: Seconds of silence, seconds between probes, and probes after which a TCP client counts as gone.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))


class Peer:
    """Whoever has connected: a uid or an address. `large`: turns for long requests."""

    def __init__(self) -> None:
        self.connections: set[Client] = set()
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)


class Client:
    """One connection. `active`: time of its last call, or of its begin. `held`: bytes of its unread requests."""

    peer: Peer
    peer_key: str
    name: str
    transport: asyncio.Transport | None

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.loop = asyncio.get_running_loop()
        self.active = self.loop.time()
        self.held = 0
        self._watched: tuple[str, int] = ("", 0)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def calls(self) -> int:
        """Number of calls under way."""
        raise NotImplementedError

    @property
    def greeted(self) -> bool:
        """True when the client has shown that it speaks the protocol."""
        raise NotImplementedError

    def state(self) -> tuple[str, int]:
        """Return what the client has to do next, a key of `limits` or "", and a number that changes with each step."""
        raise NotImplementedError

    def limits(self) -> dict[str, tuple[float, Callable[[], None]]]:
        """Return for each state the seconds that it may last and what happens then."""
        raise NotImplementedError

    def leave(self, why: str) -> None:
        """End a connection without calls as its protocol does, so that the client reconnects when it needs to."""
        raise NotImplementedError

    def finish(self) -> asyncio.Future[None] | None:
        """End the calls under way; return what is to be waited for, if anything."""
        return None

    def hold(self, size: int) -> None:
        self.clients.hold(self, size)

    def changed(self) -> None:
        """Start, restart or stop the timer for the client's next step."""
        state = self.state()
        if state == self._watched:
            return
        self._watched = state
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        kind = state[0]
        if kind == "idle":
            self.active = self.loop.time()
        if kind:
            seconds, act = self.limits()[kind]
            self._timer = self.loop.call_later(seconds, act)

    def cut_off(self, why: str) -> None:
        self.clients.complain(f"API client ({self.name}): connection closed: {why}")
        self.end()

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Clients:
    """All connections of one server."""

    def __init__(self) -> None:
        self.connections: set[Client] = set()
        self.held = 0
        self._peers: dict[str, Peer] = {}
        self._complaints = Complaints()

    def admit(self, new: Client) -> bool:
        """Return False if there is no room for *new*."""
        peer = self._peers.get(new.peer_key) or Peer()
        for crowd, bound in ((peer.connections, MAX_PER_PEER), (self.connections, MAX_CONNECTIONS)):
            if len(crowd) >= bound:
                idle = [one for one in crowd if not one.calls]
                if not idle:
                    self.complain(f"API client ({new.name}): connection refused: {len(crowd)} are busy")
                    return False
                oldest = min(idle, key=lambda one: (one.greeted, one.active))
                oldest.leave("makes room for another")
                self.remove(oldest)  # at once: others may come before its transport has closed
        new.peer = self._peers[new.peer_key] = peer
        peer.connections.add(new)
        self.connections.add(new)
        return True

    def replace(self, old: Client, new: Client) -> None:
        """Give the place of *old*, whose language is known now, to *new*."""
        new.peer_key, new.name, new.active = old.peer_key, old.name, old.active
        if old in self.connections:
            new.peer = old.peer
            new.peer.connections.add(new)
            self.connections.add(new)
            self.remove(old)

    def remove(self, old: Client) -> None:
        if old not in self.connections:
            return
        self.connections.remove(old)
        self.held -= old.held
        old.peer.connections.remove(old)
        if not old.peer.connections:
            del self._peers[old.peer_key]

    def hold(self, client: Client, size: int) -> None:
        """Count *size* bytes more (or fewer) of *client*; at the bound, cut off the client that holds most."""
        client.held += size
        if client in self.connections:
            self.held += size
        while self.held > MAX_HELD:
            most = max(self.connections, key=lambda one: one.held)
            most.cut_off(f"{most.held} of {self.held} bytes of unread requests are its own")
            self.remove(most)

    def complain(self, text: str) -> None:
        if self._complaints.allowed(asyncio.get_running_loop().time()):
            log.warning(text)


class Complaints:
    """Bound what clients can have written to the log."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._count = 0

    def allowed(self, now: float) -> bool:
        if now - self._since >= COMPLAINTS_PERIOD:
            if self._count > COMPLAINTS:
                log.warning("API clients: %d more complaints were not logged", self._count - COMPLAINTS)
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= COMPLAINTS


def introduced(transport: asyncio.Transport) -> tuple[str, str]:
    """Return who the client is, for its share and for the log."""
    sock = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"uid {uid}", f"uid {uid}, pid {pid}"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    host = (transport.get_extra_info("peername") or ("unknown",))[0]
    return share_of(host), str(host)


def share_of(host: str) -> str:
    """Return whose share of connections an address uses: its IPv6 network of 64 bits, or its own."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    mapped = packed[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET, packed[12:]) if mapped else packed[:8].hex()
