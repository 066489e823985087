# SPDX-License-Identifier: Apache-2.0
"""Devices, mounts, ports and ulimits in the one-line form of the command line.

The forms and the texts of errors are those of the original (docs/spec/container.md, "String forms"). If the original
cuts a port number to 16 bits or ignores a part, the entry is refused with the same text.
"""

from __future__ import annotations

import ipaddress
import re

from pycm.errors import InvalidInputError
from pycm.model.container import DeviceMapping, MountPoint, PortMapping, Ulimit

DEFAULT_PERMISSIONS = "rwm"
DEFAULT_PROPAGATION = "rprivate"
READ_ONLY = "ro"
_PERMISSIONS = re.compile("[rwm]{1,3}")
_PORT = re.compile("[0-9]{1,5}")
_LIMIT = re.compile("-1|[0-9]{1,18}")
_MAX_SHOWN = 120


def parse_device(text: str) -> DeviceMapping:
    """Read "host:container[:permissions]"."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise _wrong("incorrect configuration value for device mapping", text)
    permissions = parts[2] if len(parts) == 3 else DEFAULT_PERMISSIONS
    if not _PERMISSIONS.fullmatch(permissions):
        raise _wrong("incorrect cgroup permissions format for device mapping", text)
    return DeviceMapping(path_on_host=parts[0], path_in_container=parts[1], cgroup_permissions=permissions)


def parse_mount(text: str) -> MountPoint:
    """Read "source:destination[:propagation][:ro]"; the propagation is left for validation."""
    parts = text.split(":")
    read_only = len(parts) in (3, 4) and parts[-1] == READ_ONLY
    if read_only:
        parts.pop()
    if len(parts) not in (2, 3):
        raise _wrong("Incorrect number of parameters of the mount point", text)
    mode = parts[2] if len(parts) == 3 else DEFAULT_PROPAGATION
    return MountPoint(source=parts[0], destination=parts[1], propagation_mode=mode, read_only=read_only)


def parse_port(text: str) -> PortMapping:
    """Read "[ip:]host[-end]:container[/protocol]"; parts that are absent stay empty, for the defaults."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise _wrong("Incorrect port mapping configuration", text)
    host_ip = parts[0] if len(parts) == 3 else ""
    if len(parts) == 3 and not _is_address(host_ip):
        raise _wrong("Incorrect host ip port mapping configuration", text)
    start, end = _host_ports(parts[-2], text)
    number, _, proto = parts[-1].partition("/")
    container_port = _port(number, "Incorrect container port mapping configuration", text)
    if "/" in proto:
        raise _wrong("Incorrect container port mapping configuration", text)
    return PortMapping(
        proto=proto, container_port=container_port, host_ip=host_ip, host_port=start, host_port_end=end
    )


def parse_ulimit(text: str) -> Ulimit:
    """Read "name=soft[:hard]"; without a hard limit it is the soft one. -1 is unlimited."""
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        return Ulimit(name=name, soft=_limit(soft), hard=_limit(hard if colon else soft))
    except ValueError:
        raise _wrong("incorrect ulimit, name=soft[:hard] is wanted:", text) from None


def _limit(number: str) -> int:
    if not _LIMIT.fullmatch(number):
        raise ValueError(number)
    return int(number)


def _host_ports(part: str, text: str) -> tuple[int, int]:
    """First and last port on the host; last is 0 for a single port."""
    if "-" not in part:
        return _port(part, "Incorrect host port mapping configuration", text), 0
    message = "Incorrect host range port mapping configuration"
    first, _, last = part.partition("-")
    start, end = _port(first, message, text), _port(last, message, text)
    if end < start:
        raise _wrong(message, text)
    return start, end


def _port(number: str, message: str, text: str) -> int:
    if not _PORT.fullmatch(number) or int(number) > 65535:
        raise _wrong(message, text)
    return int(number)


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _wrong(message: str, text: str) -> InvalidInputError:
    shown = text if text.isprintable() and len(text) <= _MAX_SHOWN else repr(text[:_MAX_SHOWN]) + "…"
    return InvalidInputError(f"{message} {shown}")
