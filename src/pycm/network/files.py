# SPDX-License-Identifier: Apache-2.0
"""The files of a container's network, in `<home>/containers/<id>/` as Kanto's, and network mode "host" as a whole.

The container may write to them. So that it cannot fill the disk, files of a small tmpfs are mounted over them while it runs.
In mode host the container shares the machine's network; it gets the machine's name and copies of its files.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.model.container import Container, EndpointSettings, NetworkSettings
from pycm.model.defaults import HOST
from pycm.network.hosts import hosts_lines
from pycm.storage.files import make_directory, read_regular, write_atomic
from pycm.storage.mounts import cover, in_own_thread, mounted_below, see_as_init, uncover

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

#: systemd-resolved's stub listens on an address of the host; its full list is here.
_RESOLVED = "/run/systemd/resolve/resolv.conf"
_STUB = "nameserver 127.0.0.53"
NAMES = ("hostname", "hosts", "resolv.conf")
#: Bytes of a file that are read.
_LONGEST = 1024 * 1024
#: What the files of one container may take: the largest that are made, and some.
_SIZE = "4m"
#: Of a mount: the agent has not the right, or its directory for what a boot removes cannot be used. Neither ends a container.
_NO_PLACE = {
    errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
log = logging.getLogger("pycm.network")


class ContainerFiles:
    """`prepare` once, before anything else. Blocking: call it in a worker thread.

    *run*: a directory of the agent's that the next boot finds empty; "" for files that lie on the disk.
    """

    def __init__(self, home: str, run: str = "") -> None:
        self._directory = os.path.join(home, "containers")
        self._staging = os.path.join(run, "files") if run else ""
        #: Ids of containers over whose files something is mounted.
        self._covered: set[str] = set()
        self._warned = False

    def prepare(self) -> None:
        """Find what earlier agents have mounted; containers that run keep it."""
        if not self._staging:
            return
        directory, staging = os.path.realpath(self._directory), os.path.realpath(self._staging)
        for path in mounted_below(directory):
            container_id, _, name = os.path.relpath(path, directory).partition("/")
            if name in NAMES:
                self._covered.add(container_id)
        # of a start that was cut short; what cannot be removed is used by the next start of that container
        with contextlib.suppress(OSError):
            if left := mounted_below(staging):
                self._as_process_1(lambda: uncover(left))
            for name in os.listdir(staging):
                os.rmdir(os.path.join(staging, name))

    def write(self, container: Container, contents: Mapping[str, bytes]) -> Container:
        """Write hostname, hosts and resolv.conf; returns the container with their paths. OperationFailedError names the file."""
        directory = os.path.join(self._directory, container.id)
        try:
            self.release(container.id)
            make_directory(directory)
            files = {os.path.join(directory, name): content for name, content in contents.items()}
            for path, content in files.items():
                _write_if_changed(path, content)
            self._cover(container.id, files)
        except OSError as error:
            raise OperationFailedError(
                f"cannot write {error.filename or directory}: {error.strerror}"
            ) from error
        return replace(
            container,
            hostname_path=os.path.join(directory, "hostname"),
            hosts_path=os.path.join(directory, "hosts"),
            resolv_conf_path=os.path.join(directory, "resolv.conf"),
        )

    def _cover(self, container_id: str, files: Mapping[str, bytes]) -> None:
        """Where nothing can be mounted, by rights or by a wrong network.exec_root_dir, the container gets the files on the disk."""
        if not self._staging:
            return
        staging = os.path.join(os.path.realpath(self._staging), container_id)
        self._covered.add(container_id)
        try:
            self._as_process_1(lambda: cover(files, staging, _SIZE))
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            self._covered.discard(container_id)
            if not self._warned:
                self._warned = True
                log.warning(
                    "network files of containers: cannot mount a tmpfs: %s (containers can fill the disk of %s)",
                    error.strerror,
                    self._directory,
                )

    def release(self, container_id: str) -> None:
        """Nothing uses the files any more. OperationFailedError if they cannot be unmounted; it can be tried again."""
        if container_id not in self._covered:
            return
        paths = [os.path.join(self._directory, container_id, name) for name in NAMES]
        try:
            self._as_process_1(lambda: uncover(paths))
        except OSError as error:
            raise OperationFailedError(
                f"cannot unmount the network files of container {container_id}: {error.strerror}"
            ) from error
        self._covered.discard(container_id)

    def others(self, kept: Collection[str]) -> set[str]:
        """Containers that have mounted files and are none of *kept*."""
        return self._covered.difference(kept)

    def as_containers_see_them(self, work: Callable[[], None]) -> None:
        """Run *work* where the paths lead to what is mounted over them."""
        if self._covered:
            self._as_process_1(work)
        else:
            work()

    def _as_process_1(self, work: Callable[[], None]) -> None:
        def there() -> None:
            see_as_init(self._directory)
            work()

        in_own_thread(there)


class HostNetwork:
    """The part of ports.Network for mode "host"."""

    def __init__(self, files: ContainerFiles, etc: str = "/etc") -> None:
        self._files = files
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
        container = self._files.write(container, contents)
        return self.found(replace(container, host_name=host_name))

    def found(self, container: Container) -> Container:
        return replace(container, network_settings=NetworkSettings(networks={HOST: EndpointSettings()}))

    def _hosts(self, container: Container) -> bytes:
        extra = container.host_config.extra_hosts if container.host_config else ()
        if not extra:
            return read(os.path.join(self._etc, "hosts"), follow=True)
        return hosts_lines(extra, (), lambda _name: "")


def read_resolv_conf(etc: str) -> bytes:
    content = read(os.path.join(etc, "resolv.conf"), follow=True)
    return read(_RESOLVED, follow=True) or content if _STUB.encode() in content else content


def read(path: str, *, follow: bool = False) -> bytes:
    """What there is; nothing, if it cannot be read. *follow* links for files of the machine, not for those of a container."""
    try:
        return read_regular(path, _LONGEST, follow=follow)
    except OSError:
        return b""


def _write_if_changed(path: str, content: bytes) -> None:
    """A restart of a container with the same names and peers costs no write."""
    if read(path) != content or not os.path.exists(path):
        write_atomic(path, content)
