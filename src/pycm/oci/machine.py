# SPDX-License-Identifier: Apache-2.0
"""What the machine offers to containers: device nodes, CPUs, capabilities, and seccomp. The one module of this room
with I/O.
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pycm.errors import InvalidInputError, shorten
from pycm.model.validation import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.model.container import DeviceMapping, HostConfig

#: Below /dev, but made by the runtime for each container.
_NOT_SHARED = frozenset({"pts", "shm", "fd", "mqueue", "console", ".udev", ".lxc", ".lxd-mounts"})
#: Entries that are visited below the directories that a container maps; more are a mistake, such as "/".
MAX_ENTRIES = 16_384
#: Nodes that the mappings of one container expand to; each is a node in the container and a rule for the kernel.
MAX_NODES = 4_096
#: Exists if the kernel can filter system calls.
_SECCOMP_ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"
_INIT = "/proc/1/status"
#: Words of `runc --version` and `crun --version` if they were built with seccomp.
_BUILT_WITH = ("libseccomp", "+SECCOMP")
_SECONDS = 10
log = logging.getLogger("pycm.oci")


class Device(NamedTuple):
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
    """The CPUs that are online, as the kernel lists them ("0-3"); "" if unknown."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Devices(Protocol):
    def find(self, host: HostConfig) -> tuple[Device, ...]:
        """The nodes for a container. InvalidInputError names a mapped one that does not exist."""


class HostDevices:
    def find(self, host: HostConfig) -> tuple[Device, ...]:
        search = _NodeSearch()
        if host.privileged:
            return tuple(search.below("/dev", "/dev", "rwm"))
        found: dict[Device, None] = {}  # a repeated mapping counts once
        for mapping in host.devices:
            for device in search.mapped(mapping):
                found[device] = None
                if len(found) > MAX_NODES:
                    raise InvalidInputError(
                        f"devices: the mappings expand to more than {MAX_NODES} nodes: map only those that are needed"
                    )
        return tuple(found)


class _NodeSearch:
    """One search for one container, which counts the entries that it visits."""

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
                reason = f"more than {MAX_ENTRIES} entries: map only the devices that are needed"
                raise InvalidInputError(f"device directory {shorten(source)}: {reason}")
            names[:] = [name for name in names if name not in _NOT_SHARED]
            inside = target + directory[len(source) :]
            for name in files:
                path = os.path.join(directory, name)
                device = _node(path, os.path.join(inside, name), access)
                if device is not None and name not in _NOT_SHARED:
                    yield device


def _node(path: str, target: str, access: str) -> Device | None:
    """The node at *path*, without following links; None if it is not a device."""
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


@cache
def seccomp(binary: str) -> bool:
    """Whether *binary* can start a container with a seccomp profile here. Runs it once, which takes some milliseconds.

    Some builds of runc for Yocto lack seccomp and refuse a container with a profile: containers run without it there.
    """
    if not os.path.exists(_SECCOMP_ACTIONS):
        log.warning(
            "seccomp: unavailable: this kernel lacks it (containers run without a filter of system calls)"
        )
        return False
    try:
        asked = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # containerd may find it elsewhere
    if asked.returncode == 0 and not any(word in asked.stdout for word in _BUILT_WITH):
        log.warning(
            "seccomp: unavailable: %s is built without it (containers run without a filter of system calls)",
            binary,
        )
        return False
    return True


@cache
def capabilities() -> tuple[str, ...]:
    """The capabilities of init, and so of a privileged container; all known ones if init's are unreadable."""
    try:
        with open(_INIT, encoding="ascii") as file:
            (mask,) = (int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))
    except (OSError, ValueError, IndexError):
        return CAPABILITIES
    return tuple(name for number, name in enumerate(CAPABILITIES) if mask & 1 << number)
