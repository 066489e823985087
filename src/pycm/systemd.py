# SPDX-License-Identifier: Apache-2.0
"""Reports to systemd: the agent is ready, alive or stopping, and its status line. Without systemd
it does nothing.

sd_notify(3) is one datagram of KEY=VALUE lines to the socket in $NOTIFY_SOCKET, so that no library is needed. A message
that cannot be sent is dropped: the agent works without it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

log = logging.getLogger("pycm.systemd")

#: Shortest interval of two pings, whatever the unit says: each one is a wake-up.
MIN_INTERVAL = 0.1
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Supervisor:
    """Pings the watchdog of systemd from the event loop, so that a loop that hangs does not ping."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """*address*: of the socket, "" for none. *watchdog*: timeout in seconds, 0 for none."""
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._timer: asyncio.TimerHandle | None = None
        self._healthy: Callable[[], bool] = lambda: True
        self._status: Callable[[], str] = str
        self._socket = _open(address) if address else None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Supervisor:
        """Also remove the variables, because a program that the agent starts must not report in its name."""
        address, microseconds, pid = (environment.pop(name, "") for name in _VARIABLES)
        watchdog = 0.0
        if not pid or pid == str(os.getpid()):
            with suppress(ValueError):
                watchdog = max(int(microseconds or 0) / 1e6, 0.0)
        return cls(address, watchdog)

    def ready(self, status: str) -> None:
        self._send("READY=1", _line(status))

    def stopping(self) -> None:
        """Send no more pings: from now on, systemd's timeout for stopping applies."""
        self._cancel()
        self._send("STOPPING=1", _line("The agent ends"))

    def watch(self, healthy: Callable[[], bool], status: Callable[[], str]) -> None:
        """Ping twice in each timeout of the watchdog while *healthy* returns True, and send the *status* with it."""
        self._healthy, self._status = healthy, status
        if self._socket is not None and self.watchdog:
            self._ping()

    def close(self) -> None:
        self._cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ping(self) -> None:
        if self._healthy():
            self._send("WATCHDOG=1", _line(self._status()))
        else:
            log.error("watchdog: a part of the agent does not work (no ping is sent to systemd)")
        interval = max(self.watchdog / 2, MIN_INTERVAL)
        self._timer = asyncio.get_running_loop().call_later(interval, self._ping)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:  # its queue is full, or systemd is replacing itself
            log.warning("systemd: cannot send %s: %s", lines[0], error.strerror)


def _open(address: str) -> socket.socket | None:
    """A datagram socket that never blocks. It is not connected: a systemd that replaces itself may create its socket
    again.
    """
    if not address.startswith(("/", "@")):  # "@" means the first byte of an abstract name
        log.warning("systemd: unsupported socket: NOTIFY_SOCKET=%.100r (no messages are sent)", address)
        return None
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def _line(status: str) -> str:
    """One line, because a line break would begin another variable."""
    return "STATUS=" + " ".join(status.split())
