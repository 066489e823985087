# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: ready, alive, stopping, a line of status. Without systemd nothing happens.

sd_notify(3) is one datagram of KEY=VALUE lines to the socket in $NOTIFY_SOCKET, so no library is needed. A message that cannot be
sent is dropped: an agent that has nobody to report to still works.
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

#: Shortest time between two pings, whatever the unit asks for: each one wakes the agent up.
MIN_INTERVAL = 0.1
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Supervisor:
    """systemd as this process sees it. `watch` pings its watchdog from the loop, so that a loop that hangs does not."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """*address*: of the socket, "" for none; *watchdog*: seconds after which systemd loses patience, 0 for never."""
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._timer: asyncio.TimerHandle | None = None
        self._healthy: Callable[[], bool] = _yes
        self._status: Callable[[], str] = str
        self._socket = _open(address) if address else None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Supervisor:
        """Takes the variables away, too: a program that the agent starts must not report in its name."""
        address, microseconds, pid = (environment.pop(name, "") for name in _VARIABLES)
        watchdog = 0.0
        if not pid or pid == str(os.getpid()):
            with suppress(ValueError):
                watchdog = max(int(microseconds or 0) / 1e6, 0.0)
        return cls(address, watchdog)

    def ready(self, status: str) -> None:
        self._send("READY=1", _line(status))

    def stopping(self) -> None:
        """No more pings from here on: systemd's time limit for stopping counts instead."""
        self._cancel()
        self._send("STOPPING=1", _line("The agent ends"))

    def watch(self, healthy: Callable[[], bool], status: Callable[[], str]) -> None:
        """From now on say each half of the watchdog's time that all is well, as long as *healthy* finds so, and the *status*."""
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
            log.error("a part of the agent does not work: systemd is no longer told that all is well")
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
            log.warning("systemd could not be told %s: %s", lines[0], error.strerror)


def _open(address: str) -> socket.socket | None:
    """A datagram socket that never blocks. Not connected: a systemd that replaces itself may make its socket anew."""
    if not address.startswith(("/", "@")):  # "@" stands for the first byte of an abstract name
        log.warning("NOTIFY_SOCKET=%.100r is no socket that this program can use", address)
        return None
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def _line(status: str) -> str:
    """One line, whatever the text is: a line break would begin another variable."""
    return "STATUS=" + " ".join(status.split())


def _yes() -> bool:
    return True
