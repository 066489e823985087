# SPDX-License-Identifier: Apache-2.0
"""User and password of the connection, which may change in the configuration file while the agent runs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pycm.errors import PycmError
from pycm.mqtt import tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.mqtt.settings import MqttSettings

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
