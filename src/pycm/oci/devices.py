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
#: Entries that are looked at below the directories that a container maps: more are a mistake (for instance "/").
MAX_ENTRIES = 16_384
#: Nodes that mappings of one container stand for together; each is a node in the container and a rule for the kernel.
MAX_NODES = 4_096


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
        search = _NodeSearch()
        if host.privileged:
            return tuple(search.below("/dev", "/dev", "rwm"))
        found: dict[Device, None] = {}  # a node that is mapped twice in the same way is one
        for mapping in host.devices:
            for device in search.mapped(mapping):
                found[device] = None
                if len(found) > MAX_NODES:
                    raise InvalidInputError(
                        f"devices: the mappings stand for more than {MAX_NODES} nodes: map those that are needed"
                    )
        return tuple(found)


class _NodeSearch:
    """Counts what it looks at for one container."""

    def __init__(self) -> None:
        self._entries = 0

    def mapped(self, mapping: DeviceMapping) -> Iterator[Device]:
        source = os.path.realpath(mapping.path_on_host)
        device = _node(source, mapping.path_in_container, mapping.cgroup_permissions)
        if device is not None:
            yield device
        elif os.path.isdir(source):
            yield from self.below(source, mapping.path_in_container, mapping.cgroup_permissions)
        else:
            raise InvalidInputError(
                f"device {shorten(mapping.path_on_host)} is not a device node of this machine"
            )

    def below(self, source: str, target: str, access: str) -> Iterator[Device]:
        for directory, names, files in os.walk(source):
            self._entries += len(names) + len(files)
            if self._entries > MAX_ENTRIES:
                raise InvalidInputError(
                    f"device directory {shorten(source)}: more than {MAX_ENTRIES} entries: map the devices that are needed"
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
