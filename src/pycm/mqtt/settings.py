# SPDX-License-Identifier: Apache-2.0
"""The section `connection` of the configuration: the broker's address, what cannot work, and a login that may change at
run time.
"""

from __future__ import annotations

import asyncio
import logging
from socket import gethostname
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from pycm.errors import ConfigError, PycmError, shorten
from pycm.model.frozen import replace
from pycm.tls import stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.config.types import Connection

log = logging.getLogger("pycm.mqtt")

PLAIN_PORT, TLS_PORT = 1883, 8883
MAX_TOPIC, MAX_WILL = 1024, 65535
#: Scheme of `connection.broker_url` -> TLS or not. WebSockets are not supported: paho's need a second, blocking
# protocol layer.
SCHEMES = {
    "tcp": False,
    "mqtt": False,
    "ssl": True,
    "tls": True,
    "mqtts": True,
    "mqtt+ssl": True,
    "tcps": True,
}


class Address(NamedTuple):
    """`shown` is the address for logs. user and password: as in tcp://user:password@host."""

    host: str
    port: int
    tls: bool
    shown: str
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Without the password."""
        return f"Address({self.shown})"

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
    """Read an address; without a scheme it is tcp. Raises ConfigError."""
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
        raise _wrong(url, "it has no host, as in tcp://localhost:1883")
    tls = SCHEMES[scheme]
    port = port or (TLS_PORT if tls else PLAIN_PORT)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(parts.hostname, port, tls, f"{scheme}://{parts.hostname}:{port}", user, password)


def _wrong(url: str, reason: str) -> ConfigError:
    hidden = url.rpartition("@")[2]
    return ConfigError(f"connection.broker_url: {shorten(hidden)} cannot be used: {reason}")


def check(settings: Connection) -> Address:
    """Return the broker's address. Raises ConfigError if these settings can never lead to a connection."""
    address, files = parse_address(settings.broker_url), settings.transport
    if address.tls and not files.root_ca:
        text = f"connection.transport.root_ca must name a PEM file for {address.shown}; the system's CAs are not used"
        raise ConfigError(text)
    if bool(files.client_cert) != bool(files.client_key):
        raise ConfigError("connection.transport: client_cert and client_key must be set together")
    topic = settings.will_topic
    if set(topic) & set("+#\0") or len(topic.encode()) > MAX_TOPIC:
        raise ConfigError(f"connection.will_topic: {shorten(topic)} is not a topic to publish on")
    if len(settings.will_message.encode()) > MAX_WILL:
        raise ConfigError(f"connection.will_message: more than {MAX_WILL} bytes")
    for name in settings.alpn:
        if not 0 < len(name.encode()) < 256:
            raise ConfigError(f"connection.alpn: {shorten(name)} is not a protocol name (1 to 255 bytes)")
    return address


class Source(NamedTuple):
    """The configuration file, and how to read the section again: blocking, raises PycmError."""

    file: str
    read: Callable[[], Connection]


class Login:
    """`settings` with the newest user and password of the configuration file. Other settings need a restart of the
    agent.
    """

    def __init__(self, settings: Connection, source: Source | None) -> None:
        self.settings = settings
        self._source = source
        self._stamp = stamp(source.file) if source else ()

    @property
    def is_stale(self) -> bool:
        """The file was replaced or written since it was last read. Costs a stat."""
        return self._source is not None and stamp(self._source.file) != self._stamp

    async def renew(self) -> bool:
        """Read a stale file; True if user or password have changed. An invalid file changes nothing."""
        if self._source is None or not self.is_stale:
            return False
        self._stamp = stamp(self._source.file)  # before it is read: a later change counts the next time
        try:
            found = await asyncio.to_thread(self._source.read)
        except PycmError as error:
            log.warning("configuration changed, but cannot be used: %s (the MQTT login stays)", error)
            return False
        before = self.settings
        self.settings = replace(
            before, client_username=found.client_username, client_password=found.client_password
        )
        return self.settings != before
