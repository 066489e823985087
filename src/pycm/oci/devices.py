# SPDX-License-Identifier: Apache-2.0
"""Device nodes of the host that a container shall see. The one module of this room that looks at the machine."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pycm.errors import InvalidInputError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.model.container import DeviceMapping, HostConfig

#: Below /dev, but made by the runtime for each container.
_NOT_SHARED = frozenset({"pts", "shm", "fd", "mqueue", "console", ".udev", ".lxc", ".lxd-mounts"})
#: A mapped directory with more entries than this is a mistake (for instance "/").
MAX_ENTRIES = 16_384


@dataclass(frozen=True)
class Device:
    """A node as the OCI specification describes it. `type` is "c" or "b", `access` letters of r, w, m."""

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str = "rwm"


def online_cpus() -> str:
    """All CPUs that run, as the kernel lists them ("0-3"); "" if it does not say."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Devices(Protocol):
    def find(self, host: HostConfig) -> tuple[Device, ...]:
        """The nodes for a container; InvalidInputError names a mapped one that is not there."""


class HostDevices:
    def find(self, host: HostConfig) -> tuple[Device, ...]:
        if host.privileged:
            return tuple(self._below("/dev", "/dev", "rwm"))
        return tuple(device for mapping in host.devices for device in self._mapped(mapping))

    def _mapped(self, mapping: DeviceMapping) -> Iterator[Device]:
        source = os.path.realpath(mapping.path_on_host)
        device = _node(source, mapping.path_in_container, mapping.cgroup_permissions)
        if device is not None:
            yield device
        elif os.path.isdir(source):
            yield from self._below(source, mapping.path_in_container, mapping.cgroup_permissions)
        else:
            raise InvalidInputError(
                f"device {shorten(mapping.path_on_host)} is not a device node of this machine"
            )

    def _below(self, source: str, target: str, access: str) -> Iterator[Device]:
        entries = 0
        for directory, names, files in os.walk(source):
            entries += len(names) + len(files)
            if entries > MAX_ENTRIES:
                raise InvalidInputError(
                    f"device directory {shorten(source)} holds more than {MAX_ENTRIES} entries: map the devices that are needed"
                )
            names[:] = [name for name in names if name not in _NOT_SHARED]
            inside = target + directory[len(source) :]
            for name in files:
                path = os.path.join(directory, name)
                device = _node(path, os.path.join(inside, name), access)
                if device is not None and name not in _NOT_SHARED:
                    yield device


def _node(path: str, target: str, access: str) -> Device | None:
    """The node at *path*, links not followed; None if there is none or it is no device."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return Device(
        target, kind, major, minor, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, access
    )
