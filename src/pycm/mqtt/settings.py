# SPDX-License-Identifier: Apache-2.0
"""What the connection to the broker is made with, and where the broker's address says it is.

User and password of the connection, which may change in the configuration file while the agent runs.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from socket import gethostname
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pycm.errors import ConfigError, PycmError, shorten
from pycm.mqtt import tls

if TYPE_CHECKING:
    from collections.abc import Callable


PLAIN_PORT, TLS_PORT = 1883, 8883
MAX_TOPIC, MAX_WILL = 1024, 65535
#: scheme of `connection.broker_url` -> TLS or not. WebSockets are left out: paho's need a second, blocking protocol layer.
SCHEMES = {
    "tcp": False,
    "mqtt": False,
    "ssl": True,
    "tls": True,
    "mqtts": True,
    "mqtt+ssl": True,
    "tcps": True,
}


@dataclass(frozen=True)
class MqttSettings:
    """The configuration's section `connection`; times in seconds."""

    broker_url: str = "tcp://localhost:1883"
    keep_alive: float = 20.0
    disconnect_timeout: float = 0.25
    connect_timeout: float = 30.0
    acknowledge_timeout: float = 15.0
    subscribe_timeout: float = 15.0
    unsubscribe_timeout: float = 5.0
    client_username: str = ""
    client_password: str = field(default="", repr=False)
    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    alpn: tuple[str, ...] = ()
    will_topic: str = ""
    will_message: str = field(default="", repr=False)


@dataclass(frozen=True)
class Address:
    """`shown` is the address as it may stand in a log. user and password: as in tcp://user:password@host, where they may stand too."""

    host: str
    port: int
    tls: bool
    shown: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_local(self) -> bool:
        """The name alone says that the broker is on this machine."""
        host = self.host.rstrip(".").lower()
        return (
            host in ("localhost", "::1", gethostname().lower())
            or host.endswith(".localhost")
            or host.startswith("127.")
        )


def parse_address(url: str) -> Address:
    """An address without a scheme is tcp. Errors: ConfigError, with what is possible."""
    try:
        parts = urlsplit(url if "://" in url else f"tcp://{url}")
    except ValueError as error:
        raise _wrong(url, str(error)) from None
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        raise _wrong(url, f"the scheme must be one of {', '.join(SCHEMES)}")
    try:
        port = parts.port
    except ValueError:
        raise _wrong(url, "the port must be a number up to 65535") from None
    if not parts.hostname:
        raise _wrong(url, "there is no host in it, as in tcp://localhost:1883")
    tls = SCHEMES[scheme]
    port = port or (TLS_PORT if tls else PLAIN_PORT)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(parts.hostname, port, tls, f"{scheme}://{parts.hostname}:{port}", user, password)


def _wrong(url: str, reason: str) -> ConfigError:
    hidden = url.rpartition("@")[2]
    return ConfigError(f"connection.broker_url: {shorten(hidden)} cannot be used: {reason}")


def check(settings: MqttSettings) -> Address:
    """The broker's address, if the settings can ever lead to a connection. Errors: ConfigError."""
    address = parse_address(settings.broker_url)
    if address.tls and not settings.root_ca:
        raise ConfigError(
            f"connection.transport.root_ca: must name a PEM file, as {address.shown} asks for TLS; the system's CAs are not used"
        )
    if bool(settings.client_cert) != bool(settings.client_key):
        raise ConfigError(
            "connection.transport: client_cert and client_key belong together, only one of them is set"
        )
    _check_will(settings)
    for name in settings.alpn:
        if not 0 < len(name.encode()) < 256:
            raise ConfigError(f"connection.alpn: {shorten(name)} is no name of a protocol (1 to 255 bytes)")
    return address


def _check_will(settings: MqttSettings) -> None:
    topic = settings.will_topic
    if set(topic) & set("+#\0") or len(topic.encode()) > MAX_TOPIC:
        raise ConfigError(f"connection.will_topic: {shorten(topic)} is no topic that can be published to")
    if len(settings.will_message.encode()) > MAX_WILL:
        raise ConfigError(f"connection.will_message: more than {MAX_WILL} bytes")


log = logging.getLogger("pycm.mqtt")


@dataclass(frozen=True)
class Source:
    """`file` is looked at, `read` reads the settings anew: blocking, called in a worker; errors: PycmError."""

    file: str
    read: Callable[[], MqttSettings]


class Login:
    """`settings` with the newest user and password. Other settings need a restart of the agent."""

    def __init__(self, settings: MqttSettings, source: Source | None) -> None:
        self.settings = settings
        self._source = source
        self._stamp = self._look()

    def _look(self) -> tuple[int, ...]:
        return tls.stamp(self._source.file) if self._source else ()

    @property
    def stale(self) -> bool:
        """The file was exchanged or written since it was last read. Costs a stat."""
        return self._source is not None and self._look() != self._stamp

    async def renew(self) -> bool:
        """Read the file if it is stale; True if user or password are others. A file that cannot be used changes nothing."""
        if self._source is None or not self.stale:
            return False
        self._stamp = self._look()  # before it is read: what changes meanwhile counts later
        try:
            found = await asyncio.to_thread(self._source.read)
        except PycmError as error:
            log.warning("the configuration has changed and cannot be used; the login stays: %s", error)
            return False
        before = self.settings
        self.settings = replace(
            before, client_username=found.client_username, client_password=found.client_password
        )
        return self.settings != before
