# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime spec of a container: containerd 1.6's default for Linux with the container's wishes laid over it.

The steps and their order are those of the original (docs/spec/container.md, "Runtime specification"), one function a step. Pure: whatever must be
looked up on the machine comes in as HostFacts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError
from pycm.model.container import Container, ContainerConfiguration, HostConfig, IOConfig
from pycm.model.defaults import HOST
from pycm.model.validation import CAPABILITIES, UNCONFINED
from pycm.oci import seccomp
from pycm.oci.resources import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pycm.oci.devices import Device
    from pycm.oci.user import ProcessUser
    from pycm.ports import ImageConfig

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 1024
#: The kernel's "unlimited", as an unsigned number.
RLIM_INFINITY = 2**64 - 1

_DEFAULT = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
DEFAULT_CAPABILITIES = tuple(f"CAP_{name}" for name in _DEFAULT.split())
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
#: destination, type, source, options
BASE_MOUNTS = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
#: Kanto's hook types by number.
HOOK_KEYS = {0: "prestart", 1: "poststart", 2: "poststop"}


@dataclass(frozen=True)
class HostFacts:
    """What the spec needs to know of the machine.

    cgroups_path: "/<namespace>/<id>", or "<slice>:<namespace>:<id>" for the systemd driver. devices: nodes to add.
    network_namespace: path of one that was made for the container, "" for a new
    one; in network mode host there is none. capabilities: all that the kernel knows. seccomp_machine: what `uname -m` says, "" where
    system calls cannot be filtered.
    """

    cgroups_path: str
    devices: tuple[Device, ...] = ()
    network_namespace: str = ""
    capabilities: tuple[str, ...] = CAPABILITIES
    seccomp_machine: str = ""


def build_spec(
    container: Container, image: ImageConfig, user: ProcessUser, facts: HostFacts
) -> dict[str, Any]:
    """The runtime spec as a JSON-able dict (OCI runtime specification 1.0). InvalidInputError if there is no command to run."""
    host = container.host_config or HostConfig()
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(container, host, image, user, facts),
        "root": {"path": "rootfs"},
        "hostname": container.host_name,
        "mounts": _mounts(container, host),
        "hooks": _hooks(container),
        "linux": _linux(host, facts),
    }


def _process(
    container: Container, host: HostConfig, image: ImageConfig, user: ProcessUser, facts: HostFacts
) -> dict[str, Any]:
    tty = (container.io_config or IOConfig()).tty
    return {
        "terminal": tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)},
        "args": arguments(container, image),
        "env": environment(container, image, tty=tty),
        "cwd": (container.config or ContainerConfiguration()).working_dir or image.working_dir or "/",
        "capabilities": _capabilities(host, facts),
        "rlimits": rlimits(host),
        "noNewPrivileges": True,
    }


def rlimits(host: HostConfig) -> list[dict[str, Any]]:
    """As the container's ulimits say; 1024 open files where they do not name them."""
    wanted = {"nofile": (OPEN_FILES, OPEN_FILES), **{u.name: (u.soft, u.hard) for u in host.ulimits}}
    return [
        {"type": f"RLIMIT_{name.upper()}", "hard": _rlimit(hard), "soft": _rlimit(soft)}
        for name, (soft, hard) in wanted.items()
    ]


def _rlimit(value: int) -> int:
    return RLIM_INFINITY if value == -1 else value


def arguments(container: Container, image: ImageConfig) -> list[str]:
    """ENTRYPOINT of the image, then the container's cmd or, without one, the image's."""
    cmd = (container.config or ContainerConfiguration()).cmd or image.cmd
    if not image.entrypoint and not cmd:
        raise InvalidInputError(
            f"there is no command to run: image {container.image.name} names none, and the container's cmd is empty"
        )
    return [*image.entrypoint, *cmd]


def environment(container: Container, image: ImageConfig, *, tty: bool) -> list[str]:
    """The image's variables, HOSTNAME, TERM, then the container's own: "A=1" sets, "A" takes one away."""
    names = dict(_split(image.env or (f"PATH={DEFAULT_PATH}",)))
    names["HOSTNAME"] = container.host_name
    if tty:
        names["TERM"] = "xterm"
    for entry in (container.config or ContainerConfiguration()).env:
        name, equals, value = entry.partition("=")
        if equals:
            names[name] = value
        else:
            names.pop(name, None)
    return [f"{name}={value}" for name, value in names.items()]


def _split(entries: Iterable[str]) -> Iterable[tuple[str, str]]:
    for entry in entries:
        name, _, value = entry.partition("=")
        yield name, value


def _capabilities(host: HostConfig, facts: HostFacts) -> dict[str, list[str]]:
    return {kind: _granted(host, facts) for kind in ("bounding", "effective", "permitted")}


def _granted(host: HostConfig, facts: HostFacts) -> list[str]:
    granted = facts.capabilities if host.privileged else DEFAULT_CAPABILITIES
    return list(dict.fromkeys((*granted, *host.extra_capabilities)))


def _mounts(container: Container, host: HostConfig) -> list[dict[str, Any]]:
    mounts = [_base_mount(entry, privileged=host.privileged) for entry in BASE_MOUNTS]
    mounts += [
        _bind(m.source, m.destination, m.propagation_mode, read_only=m.read_only)
        for m in container.mount_points
    ]
    files: Mapping[str, str] = {
        "/etc/resolv.conf": container.resolv_conf_path,
        "/etc/hostname": container.hostname_path,
        "/etc/hosts": container.hosts_path,
    }
    return mounts + [_bind(source, target, "rprivate") for target, source in files.items() if source]


def _base_mount(entry: tuple[str, str, str, tuple[str, ...]], *, privileged: bool) -> dict[str, Any]:
    destination, kind, source, options = entry
    kept = [option for option in options if not (privileged and option == "ro")]
    return {"destination": destination, "type": kind, "source": source, "options": kept}


def _bind(source: str, destination: str, propagation: str, *, read_only: bool = False) -> dict[str, Any]:
    options = ["rbind", propagation, *(["ro"] if read_only else [])]
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def _hooks(container: Container) -> dict[str, list[dict[str, Any]]]:
    hooks: dict[str, list[dict[str, Any]]] = {}
    for hook in container.hooks:
        key = HOOK_KEYS.get(hook.type)
        if key:
            timeout = {"timeout": hook.timeout} if hook.timeout > 0 else {}
            hooks.setdefault(key, []).append(
                {"path": hook.path, "args": list(hook.args), "env": list(hook.env), **timeout}
            )
    return hooks


def _linux(host: HostConfig, facts: HostFacts) -> dict[str, Any]:
    linux: dict[str, Any] = {
        "resources": {"devices": _device_rules(host, facts)},
        "cgroupsPath": facts.cgroups_path,
        "namespaces": _namespaces(host, facts),
        "devices": [_device(device) for device in facts.devices],
    }
    linux["resources"].update(limits(host.resources))
    if not host.privileged:
        linux["maskedPaths"] = list(MASKED_PATHS)
        linux["readonlyPaths"] = list(READONLY_PATHS)
        if facts.seccomp_machine and host.seccomp_profile != UNCONFINED:
            linux["seccomp"] = seccomp.profile(_granted(host, facts), facts.seccomp_machine)
    return linux


def _namespaces(host: HostConfig, facts: HostFacts) -> list[dict[str, str]]:
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    if host.network_mode != HOST:
        path = {"path": facts.network_namespace} if facts.network_namespace else {}
        namespaces.append({"type": "network", **path})
    return namespaces


def _device_rules(host: HostConfig, facts: HostFacts) -> list[dict[str, Any]]:
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    allowed = [
        {"allow": True, "type": d.type, "major": d.major, "minor": d.minor, "access": d.access}
        for d in facts.devices
    ]
    return [{"allow": False, "access": "rwm"}, *allowed]


def _device(device: Device) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }
