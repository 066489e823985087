# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime spec of a container: containerd 1.6's default for Linux, changed by the container's configuration.

The steps and their order are those of the original (docs/spec/container.md, "Runtime specification"), one function a
step. Pure: facts about the machine come in as HostFacts. Limits are in the units of the OCI runtime specification:
memory in bytes, CPU time in microseconds, -1 for unlimited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError, shorten
from pycm.model.container import Container, ContainerConfiguration, HostConfig, IOConfig, Resources
from pycm.model.defaults import HOST
from pycm.model.units import CPU_PERIOD, cpu_quota, cpus_of, size_to_bytes
from pycm.model.validation import CAPABILITIES, UNCONFINED
from pycm.oci import seccomp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.oci.machine import Device
    from pycm.oci.user import ProcessUser
    from pycm.ports import ImageConfig

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 1024
#: The kernel's "unlimited", as an unsigned number.
RLIM_INFINITY = 2**64 - 1

_DEFAULT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL"
    " AUDIT_WRITE"
)
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


class HostFacts(NamedTuple):
    """What the spec depends on beside the container and its image.

    cgroups_path: "/<namespace>/<id>", or "<slice>:<namespace>:<id>" for the systemd driver. devices: nodes to add.
    network_namespace: the path of one that was made for the container, "" for a new one; unused in network mode host.
    capabilities: all that the kernel knows. seccomp_machine: what `uname -m` prints, "" if system calls cannot be
    filtered.
    """

    cgroups_path: str
    devices: tuple[Device, ...] = ()
    network_namespace: str = ""
    capabilities: tuple[str, ...] = CAPABILITIES
    seccomp_machine: str = ""


def build_spec(
    container: Container, image: ImageConfig, user: ProcessUser, facts: HostFacts
) -> dict[str, Any]:
    """Return the spec as a dict for JSON (OCI runtime specification 1.0). InvalidInputError if there is no command to
    run.
    """
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
        "capabilities": {kind: _granted(host, facts) for kind in ("bounding", "effective", "permitted")},
        "rlimits": rlimits(host),
        "noNewPrivileges": True,
    }


def rlimits(host: HostConfig) -> list[dict[str, Any]]:
    """The container's ulimits, and 1024 open files unless they name another number."""
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
    """The image's variables, HOSTNAME, TERM, then the container's own: "A=1" sets a variable, "A" removes it."""
    parts = (entry.partition("=") for entry in image.env or (f"PATH={DEFAULT_PATH}",))
    names = {name: value for name, _, value in parts}
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


# ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────────────

UNLIMITED = -1
#: The kernel's default weight of CPU time.
DEFAULT_SHARES = 1024
#: Field of Resources -> key of "linux.resources.memory". OCI's swap, like ours, counts memory and swap together.
_KEYS = {"memory": "limit", "memory_reservation": "reservation", "memory_swap": "swap"}


def _bytes(text: str) -> int:
    return UNLIMITED if text == "-1" else size_to_bytes(text)


def memory_limits(resources: Resources | None) -> dict[str, int]:
    """The "linux.resources.memory" of a new task, with only the limits that are set."""
    values = {key: getattr(resources, field, "") for field, key in _KEYS.items()}
    return {key: _bytes(text) for key, text in values.items() if text and _bytes(text)}


def cpu_limits(resources: Resources | None) -> dict[str, int | str]:
    """The "linux.resources.cpu" of a new task, with only the limits that are set. runc converts shares to cgroup v2's
    weight.
    """
    wanted = resources or Resources()
    limits: dict[str, int | str] = {}
    if wanted.cpus:
        limits |= {"quota": cpu_quota(wanted.cpus), "period": CPU_PERIOD}
    if wanted.cpu_shares:
        limits["shares"] = wanted.cpu_shares
    if wanted.cpuset_cpus:
        limits["cpus"] = wanted.cpuset_cpus
    return limits


def limits(resources: Resources | None) -> dict[str, Any]:
    """The "linux.resources" of a new task without device rules, with only the controllers that have a limit."""
    found: dict[str, Any] = {"memory": memory_limits(resources), "cpu": cpu_limits(resources)}
    if resources is not None and resources.pids_limit:
        found["pids"] = {"limit": resources.pids_limit}
    return {controller: values for controller, values in found.items() if values}


def check_cpus(resources: Resources | None, online: str) -> None:
    """InvalidInputError if a container needs CPUs that are not *online*: the kernel's list, "" if unknown."""
    wanted = resources.cpuset_cpus if resources else ""
    if wanted and online and not cpus_of(wanted) <= cpus_of(online):
        raise InvalidInputError(
            f"cpuset_cpus {shorten(wanted)} names CPUs that this machine does not have: it has {online}"
        )


def update_resources(old: Resources | None, new: Resources | None, all_cpus: str = "") -> dict[str, Any]:
    """The "linux.resources" for a live task: removed limits become unlimited, limits that were never set are absent.

    *all_cpus*: the machine's CPUs as the kernel lists them, for a container that was bound to some of them before.
    """
    before, after = limits(old), limits(new)
    memory = after.get("memory", {})
    for key in before.get("memory", {}):
        memory.setdefault(key, UNLIMITED)
    if memory.get("limit") == UNLIMITED:
        memory["swap"] = UNLIMITED  # the kernel refuses a swap limit below the memory limit
    cpu = after.get("cpu", {})
    undone = {"quota": UNLIMITED, "period": CPU_PERIOD, "shares": DEFAULT_SHARES, "cpus": all_cpus}
    for key in before.get("cpu", {}):
        if undone[key]:
            cpu.setdefault(key, undone[key])
    changed = {"memory": memory, "cpu": cpu, "pids": after.get("pids", {})}
    if "pids" in before:
        changed["pids"].setdefault("limit", UNLIMITED)
    return {controller: values for controller, values in changed.items() if values or controller == "memory"}
