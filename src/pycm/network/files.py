# SPDX-License-Identifier: Apache-2.0
"""Host network mode: the container shares the machine's network; it gets the machine's name and copies of its files.

The bridge mode is not built yet: containers that ask for it are refused with an error that says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace

from pycm.errors import ConflictError, OperationFailedError
from pycm.model.container import Container, EndpointSettings, NetworkSettings
from pycm.model.defaults import HOST
from pycm.storage.files import make_directory, write_atomic

_HOSTS = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)
#: systemd-resolved's stub listens on an address of the host; its full list is here.
_RESOLVED = "/run/systemd/resolve/resolv.conf"
_STUB = "nameserver 127.0.0.53"


class HostNetwork:
    """Implements ports.Network for network mode "host". Files live in `<home>/containers/<id>/`, as Kanto's."""

    def __init__(self, home_dir: str, etc: str = "/etc") -> None:
        self._home = home_dir
        self._etc = etc

    def check(self, container: Container) -> None:
        mode = container.host_config.network_mode if container.host_config else ""
        if mode != HOST:
            raise ConflictError(
                f"network mode {mode} is not supported yet: use network mode host (--network host)"
            )

    async def connect(self, container: Container) -> Container:
        return await asyncio.to_thread(self._connect, container)

    async def disconnect(self, container_id: str) -> None:
        """Nothing to release: the host's network is not the container's."""

    def _connect(self, container: Container) -> Container:
        directory = os.path.join(self._home, "containers", container.id)
        host_name = socket.gethostname()
        contents = {
            "hostname": f"{host_name}\n".encode(),
            "hosts": self._hosts(container),
            "resolv.conf": self._resolv_conf(),
        }
        try:
            make_directory(directory)
            for name, content in contents.items():
                _write_if_changed(os.path.join(directory, name), content)
        except OSError as error:
            raise OperationFailedError(
                f"cannot write {error.filename or directory}: {error.strerror}"
            ) from error
        return replace(
            container,
            host_name=host_name,
            hostname_path=os.path.join(directory, "hostname"),
            hosts_path=os.path.join(directory, "hosts"),
            resolv_conf_path=os.path.join(directory, "resolv.conf"),
            network_settings=NetworkSettings(networks={HOST: EndpointSettings()}),
        )

    def _hosts(self, container: Container) -> bytes:
        extra = container.host_config.extra_hosts if container.host_config else ()
        if not extra:
            return _read(os.path.join(self._etc, "hosts"))
        lines = [*_HOSTS, *(f"{address}\t{name}" for name, _, address in (e.partition(":") for e in extra))]
        return ("\n".join(lines) + "\n").encode()

    def _resolv_conf(self) -> bytes:
        content = _read(os.path.join(self._etc, "resolv.conf"))
        return _read(_RESOLVED) or content if _STUB.encode() in content else content


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1024 * 1024)
    except OSError:
        return b""


def _write_if_changed(path: str, content: bytes) -> None:
    """A restart of a container with the same names and peers costs no write."""
    if _read(path) != content or not os.path.exists(path):
        write_atomic(path, content)
