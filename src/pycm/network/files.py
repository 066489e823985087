# SPDX-License-Identifier: Apache-2.0
"""The files of a container's network, in `<home>/containers/<id>/` as Kanto's, and network mode "host" as a whole.

In mode host the container shares the machine's network; it gets the machine's name and copies of its files.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.model.container import Container, EndpointSettings, NetworkSettings
from pycm.model.defaults import HOST
from pycm.network.hosts import hosts_lines
from pycm.storage.files import make_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

#: systemd-resolved's stub listens on an address of the host; its full list is here.
_RESOLVED = "/run/systemd/resolve/resolv.conf"
_STUB = "nameserver 127.0.0.53"


class HostNetwork:
    """The part of ports.Network for mode "host"."""

    def __init__(self, home_dir: str, etc: str = "/etc") -> None:
        self._home = home_dir
        self._etc = etc

    async def connect(self, container: Container) -> Container:
        return await asyncio.to_thread(self._connect, container)

    def _connect(self, container: Container) -> Container:
        host_name = socket.gethostname()
        contents = {
            "hostname": f"{host_name}\n".encode(),
            "hosts": self._hosts(container),
            "resolv.conf": read_resolv_conf(self._etc),
        }
        settings = NetworkSettings(networks={HOST: EndpointSettings()})
        container = write_files(self._home, container, contents)
        return replace(container, host_name=host_name, network_settings=settings)

    def _hosts(self, container: Container) -> bytes:
        extra = container.host_config.extra_hosts if container.host_config else ()
        if not extra:
            return read(os.path.join(self._etc, "hosts"))
        return hosts_lines(extra, (), lambda _name: "")


def write_files(home: str, container: Container, contents: Mapping[str, bytes]) -> Container:
    """Write hostname, hosts and resolv.conf; returns the container with their paths. OperationFailedError names the file."""
    directory = os.path.join(home, "containers", container.id)
    try:
        make_directory(directory)
        for name, content in contents.items():
            _write_if_changed(os.path.join(directory, name), content)
    except OSError as error:
        raise OperationFailedError(f"cannot write {error.filename or directory}: {error.strerror}") from error
    return replace(
        container,
        hostname_path=os.path.join(directory, "hostname"),
        hosts_path=os.path.join(directory, "hosts"),
        resolv_conf_path=os.path.join(directory, "resolv.conf"),
    )


def read_resolv_conf(etc: str) -> bytes:
    content = read(os.path.join(etc, "resolv.conf"))
    return read(_RESOLVED) or content if _STUB.encode() in content else content


def read(path: str) -> bytes:
    """What there is; nothing, if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(1024 * 1024)
    except OSError:
        return b""


def _write_if_changed(path: str, content: bytes) -> None:
    """A restart of a container with the same names and peers costs no write."""
    if read(path) != content or not os.path.exists(path):
        write_atomic(path, content)
