# SPDX-License-Identifier: Apache-2.0
"""What makes a container description acceptable: one function a part, in the order that decides which error comes first.

Texts are those of the original, byte for byte (docs/spec/container.md, "Validation"); where pycm refuses more (ids, ports,
capability names), the text says so in the same manner. Every failure is an InvalidInputError.
"""

from __future__ import annotations

import re
from os.path import normpath
from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError, shorten
from pycm.model.container import (
    LARGEST,
    MOST_UNKNOWN,
    Container,
    ContainerConfiguration,
    DeviceMapping,
    HealthCheck,
    Hook,
    HostConfig,
    LogConfiguration,
    MountPoint,
    PortMapping,
    Resources,
    RestartPolicy,
    Ulimit,
)
from pycm.model.defaults import BRIDGE, HOST
from pycm.model.durations import SECOND, format_duration, parse_duration
from pycm.model.gojson import dumps
from pycm.model.records import excess, stored, unclaimed
from pycm.model.units import cpu_quota, cpus_of, size_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pycm.model.records import Record

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST"
    " NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE"
    " SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM"
    " BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
#: All capabilities that Linux 6.x knows, in the order of their numbers.
CAPABILITIES = tuple(f"CAP_{name}" for name in _CAPABILITIES.split())
#: containerd's own rule for identifiers: nothing in it can leave a directory.
_ID = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_ID_MAX = 76
_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*")
_ENV = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*(=[^\n]*)?")
PROPAGATION_MODES = frozenset({"rprivate", "private", "rshared", "shared", "rslave", "slave"})
RESTART_TYPES = ("no", "always", "unless-stopped", "on-failure")
MINIMUM_MEMORY = 3 * 1024 * 1024
_HOST_TOKEN = re.compile(r"host_ip(_.*)?")
PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
UNCONFINED = "unconfined"
#: The kernel's resource limits, as "RLIMIT_<NAME>" of the OCI specification in small letters.
_ULIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
)
ULIMITS = frozenset(_ULIMITS.split())
#: What the kernel allows: weights of CPU time, and processes of a machine.
CPU_SHARES = (2, 262_144)
MOST_PIDS = 4_194_304
_PERMISSIONS = re.compile(r"[rwm]{1,3}")
_RUNTIME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)+")
_USER = re.compile(r"[^\s:]+(:[^\s:]+)?")
LONGEST_HEALTH = 24 * 3600 * SECOND
MOST_HEALTH_RETRIES = 1000


def is_identifier(text: str) -> bool:
    """Whether containerd takes it as the name of a container, namespace or lease."""
    return len(text) <= _ID_MAX and _ID.fullmatch(text) is not None


def masked_variable(variable: str) -> str:
    """A variable of an environment, NAME=VALUE, without its value. What has no name as it should be may be a part of a value."""
    name, equals, _ = variable.partition("=")
    if not _ENV.fullmatch(name):
        return "***"
    return f"{name}=***" if equals else name


def check_id(identifier: str) -> None:
    """Before an id is used as a path or in containerd."""
    if not is_identifier(identifier):
        raise InvalidInputError(f"invalid container id format : {_shown(identifier)}")


def check_name(name: str) -> None:
    """A name may be empty; it is never used as a path."""
    if name and not _NAME.fullmatch(name):
        raise InvalidInputError(f"invalid container name format : {_shown(name)}")
    check_bounds(Container(name=name))


def check_bounds(record: Record) -> None:
    """What a field of *record*, and a whole container, may hold at most (see model.container)."""
    for text in excess(record):
        raise InvalidInputError(text)
    if isinstance(record, Container):
        size = len(stored(record))
        if size > LARGEST:
            raise InvalidInputError(f"the description has {size} bytes; at most {LARGEST} are allowed")
        unknown = sum(len(dumps(extra).encode()) for extra in unclaimed(record))
        if unknown > MOST_UNKNOWN:
            raise InvalidInputError(
                f"keys that are not known have {unknown} bytes; at most {MOST_UNKNOWN} are allowed"
            )


def _shown(text: str) -> str:
    """As it came where that is harmless, since clients compare these texts; else quoted and shortened."""
    return text if text.isprintable() and len(text) <= 256 else shorten(text)


def validate(container: Container) -> None:
    """The whole container, after defaults were filled."""
    if not container.image.name:
        raise InvalidInputError("the containers image configuration is invalid")
    check_bounds(container)
    check_name(container.name)
    _check_hosts_word("host_name", container.host_name)
    _check_hosts_word("domain_name", container.domain_name)
    for hook in container.hooks:
        _check_hook(hook)
    for number, mount in enumerate(container.mount_points):
        _check_mount(mount, f"mount_points[{number}]")
    if container.host_config is None:
        raise InvalidInputError("the containers host config is mandatory and is missing")
    _check_host_config(container.host_config)
    if container.config is not None:
        _check_config(container.config)
    if container.io_config is None:
        raise InvalidInputError("the container's IO config is missing")
    _check_texts(container)


def _check_texts(container: Container) -> None:
    """NUL ends a C string: what follows it would silently not exist for the kernel."""
    config = container.config or ContainerConfiguration()
    for field, values in (
        ("host_name", (container.host_name, container.domain_name)),
        ("mount_points", tuple(m.source + m.destination for m in container.mount_points)),
        ("config", (*config.cmd, config.user, config.working_dir)),
        ("hooks", tuple(text for hook in container.hooks for text in (hook.path, *hook.args))),
        ("health_check", config.health_check.exec if config.health_check else ()),
        ("config.env", config.env),
        ("hooks.env", tuple(variable for hook in container.hooks for variable in hook.env)),
    ):
        for value in values:
            if "\0" in value:
                end = " contains a NUL character"
                masked = f"{field}: {masked_variable(value)}{end}" if field.endswith(".env") else ""
                raise InvalidInputError(f"{field}: {shorten(value)}{end}", masked=masked)


def _check_mount(mount: MountPoint, field: str) -> None:
    if not mount.source or not mount.destination:
        raise InvalidInputError("source and destination must be set for a mount point")
    if mount.propagation_mode not in PROPAGATION_MODES:
        raise InvalidInputError("propagation mode must be set to one of the supported modes")
    if not mount.source.startswith("/"):
        raise InvalidInputError(
            f"{field}.source must be an absolute path, got {shorten(mount.source)}; relative paths and named volumes"
            " are not supported, use a path such as /srv/data"
        )
    if normpath("/" + mount.destination).strip("/") == "":
        raise InvalidInputError(
            f"mount destination {shorten(mount.destination)} would hide the container's own files: name a directory below /"
        )


def _check_host_config(host: HostConfig) -> None:
    both = (
        "cannot create the container as privileged and with {} at the same time - choose one of the options"
    )
    if host.privileged and host.devices:
        raise InvalidInputError(both.format("specified devices"))
    if host.privileged and host.extra_capabilities:
        raise InvalidInputError(both.format("extra capabilities"))
    for name in host.extra_capabilities:
        _check_capability(name)
    _check_network(host)
    for device in host.devices:
        _check_device(device)
    check_log(host.log_config)
    check_restart_policy(host.restart_policy)
    check_resources(host.resources)
    for port in host.port_mappings:
        _check_port(port)
    _check_ulimits(host.ulimits)
    _check_runtime(host.runtime)
    if host.seccomp_profile not in ("", UNCONFINED):
        raise InvalidInputError(
            f"unsupported seccomp profile {_shown(host.seccomp_profile)}: {UNCONFINED}, or none for the default one"
        )


def _check_network(host: HostConfig) -> None:
    if not host.network_mode:
        raise InvalidInputError("network mode is not set")
    if host.network_mode not in (BRIDGE, HOST):
        raise InvalidInputError(f"unsupported network mode {_shown(host.network_mode)}")
    if host.network_mode == HOST:
        if host.port_mappings:
            raise InvalidInputError("cannot use port mappings when in host network mode")
        if any(_HOST_TOKEN.fullmatch(entry.partition(":")[2]) for entry in host.extra_hosts):
            raise InvalidInputError(
                "cannot use the host_ip reserved key or any of its modifications when in host network mode"
            )


def _check_ulimits(ulimits: Iterable[Ulimit]) -> None:
    seen: set[str] = set()
    for limit in ulimits:
        if limit.name not in ULIMITS:
            raise InvalidInputError(
                f"ulimit {shorten(limit.name)} is not one of {', '.join(sorted(ULIMITS))}"
            )
        if limit.name in seen:
            raise InvalidInputError(f"ulimit {limit.name} is given twice")
        seen.add(limit.name)
        if limit.soft < -1 or limit.hard < -1:
            raise InvalidInputError(
                f"ulimit {limit.name}: limits cannot be negative, except -1 for unlimited"
            )
        if limit.hard != -1 and not -1 < limit.soft <= limit.hard:
            raise InvalidInputError(
                f"ulimit {limit.name}: the soft limit {limit.soft} is higher than the hard limit {limit.hard}"
            )


def _check_port(port: PortMapping) -> None:
    for what, number in (("container port", port.container_port), ("host port", port.host_port)):
        if not 0 < number <= 65535:
            raise InvalidInputError(
                f"port mapping {port.host_port}:{port.container_port}: {what} must be 1 to 65535"
            )
    if port.proto not in PROTOCOLS:
        raise InvalidInputError(
            f"port mapping {port.host_port}:{port.container_port}: protocol {shorten(port.proto)} is not tcp, udp or sctp"
        )
    if port.host_port_end and port.host_port_end < port.host_port:
        raise InvalidInputError(
            f"host port range {port.host_port}-{port.host_port_end} ends before it begins"
        )


def _check_runtime(name: str) -> None:
    """containerd would take a path for the program of a runtime, whoever names it."""
    if name and not _RUNTIME.fullmatch(name):
        raise InvalidInputError(
            f"runtime {shorten(name)} is not the name of a runtime of containerd, such as io.containerd.runc.v2"
        )


def _check_device(device: DeviceMapping) -> None:
    if not device.path_on_host or not device.path_in_container:
        raise InvalidInputError(
            "both path on the host and in the container must be specified for a device mapping"
        )
    if not device.path_on_host.startswith("/"):
        raise InvalidInputError(
            f"device path_on_host must be an absolute path, got {shorten(device.path_on_host)}; use one such as /dev/ttyS0"
        )
    if not device.cgroup_permissions:
        mapping = f"{device.path_on_host}:{device.path_in_container}"
        raise InvalidInputError(f"the cgroup permissions for device mapping {mapping} are not provided")
    if not _PERMISSIONS.fullmatch(device.cgroup_permissions):
        raise InvalidInputError(
            f"device {shorten(device.path_on_host)}: cgroup permissions {shorten(device.cgroup_permissions)} are not of r, w, m"
        )


def _check_hook(hook: Hook) -> None:
    if not hook.path.startswith("/"):
        raise InvalidInputError(f"hook path {shorten(hook.path)} is not an absolute path")
    if hook.timeout < 0:
        raise InvalidInputError(f"hook {shorten(hook.path)}: timeout {hook.timeout} is negative; 0 is none")


def _check_hosts_word(field: str, name: str) -> None:
    """The name stands in the hosts file, where a blank, a comment or a line feed would make other entries of it."""
    if not name.isprintable() or " " in name or "#" in name:
        raise InvalidInputError(f"{field} {shorten(name)} is not a name: no blanks, # and control characters")


def _check_capability(name: str) -> None:
    """The runtime would leave out what it does not know, and the container would run without."""
    if name not in CAPABILITIES:
        meant = "CAP_" + name.upper().removeprefix("CAP_")
        hint = f", use {meant}" if meant in CAPABILITIES else ""
        raise InvalidInputError(f"unknown capability {_shown(name)}{hint}")


def check_log(log: LogConfiguration | None) -> None:
    """A known driver and mode, sizes that can be read, an absolute root directory."""
    driver = log.driver_config if log else None
    mode = log.mode_config if log else None
    if driver is None or driver.type not in ("json-file", "none"):
        raise InvalidInputError("unsupported log driver configuration")
    if driver.type == "json-file":
        if driver.max_files < 1:
            raise InvalidInputError("max log files cannot be < 1")
        _check_size(driver.max_size, "max logs size must be set", "max logs size")
        if driver.root_dir and not driver.root_dir.startswith("/"):
            raise InvalidInputError(f"log root directory {shorten(driver.root_dir)} is not an absolute path")
    if mode is None or mode.mode not in ("blocking", "non-blocking"):
        raise InvalidInputError("unsupported log mode configuration")
    if mode.mode == "non-blocking":
        _check_size(mode.max_buffer_size, "max buffer size must be set", "max buffer size")


def _check_size(text: str, missing: str, what: str) -> None:
    if not text:
        raise InvalidInputError(missing)
    _bytes(text, what)


def _bytes(text: str, what: str) -> int:
    try:
        return size_to_bytes(text)
    except InvalidInputError:
        raise InvalidInputError(f"invalid format of {what} - {_shown(text)}") from None


def check_restart_policy(policy: RestartPolicy | None) -> None:
    """A known type; retries only with on-failure, and none negative."""
    if policy is not None:
        check_bounds(policy)
    if policy is None or policy.type not in RESTART_TYPES:
        raise InvalidInputError(f"unsupported restart policy type {_shown(policy.type) if policy else ''}")
    if policy.type != "on-failure" and policy.maximum_retry_count:
        raise InvalidInputError(f"cannot use max retry count when the restart policy is {policy.type}")
    if policy.maximum_retry_count < 0:
        raise InvalidInputError("restart policy max retry count cannot be negative")
    # the cap of every type's delays: below zero, one restart would follow the other
    if policy.retry_timeout < 0:
        raise InvalidInputError("restart policy retry timeout cannot be negative")


def check_resources(resources: Resources | None) -> None:
    """Memory limits fit each other: at least 3 MiB, reservation at most memory, swap (with memory counted in) at least memory.

    Limits of CPU time and processes are such as the kernel takes.
    """
    if resources is None:
        return
    check_bounds(resources)
    _check_memory(resources)
    if resources.cpus:
        cpu_quota(resources.cpus)
    if resources.cpuset_cpus:
        cpus_of(resources.cpuset_cpus)
    if resources.cpu_shares and not CPU_SHARES[0] <= resources.cpu_shares <= CPU_SHARES[1]:
        raise InvalidInputError(
            f"cpu_shares {resources.cpu_shares} is not between {CPU_SHARES[0]} and {CPU_SHARES[1]}"
        )
    if not 0 <= resources.pids_limit <= MOST_PIDS:
        raise InvalidInputError(
            f"pids_limit {resources.pids_limit} is not between 1 and {MOST_PIDS}; 0 is no limit"
        )


def _check_memory(resources: Resources) -> None:
    memory = _bytes(resources.memory, "memory") if resources.memory else 0
    if 0 < memory < MINIMUM_MEMORY:
        raise InvalidInputError("minimum memory allowed is 3M")
    reservation = (
        _bytes(resources.memory_reservation, "memory reservation") if resources.memory_reservation else 0
    )
    if memory and reservation > memory:
        raise InvalidInputError(
            f"reservation memory - {resources.memory_reservation} must be lower than memory - {resources.memory}"
        )
    _check_swap(resources, memory)


def _check_swap(resources: Resources, memory: int) -> None:
    text = resources.memory_swap
    swap = _bytes(text, "swap memory") if text and text != "-1" else 0
    if swap and not memory:
        raise InvalidInputError(f"swap memory - {text}, memory must be set as well")
    if swap and swap < memory:
        raise InvalidInputError(f"swap memory - {text} is less than memory - {resources.memory}")


def _check_config(config: ContainerConfiguration) -> None:
    for number, entry in enumerate(config.env):
        if not _ENV.fullmatch(entry):
            what = "invalid environmental variable declaration provided : "
            raise InvalidInputError(
                what + _shown(entry), masked=f"{what}{masked_variable(entry)} (config.env[{number}])"
            )
    if config.user and not _USER.fullmatch(config.user):
        raise InvalidInputError(f"user {shorten(config.user)} is not of the form user or user:group")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidInputError(f"working_dir {shorten(config.working_dir)} is not an absolute path")
    if config.health_check is not None:
        _check_health(config.health_check)


def _check_health(check: HealthCheck) -> None:
    """One way to check, and times in which it can succeed."""
    if bool(check.exec) == bool(check.tcp):
        both = "both exec and tcp" if check.exec else "neither exec nor tcp"
        raise InvalidInputError(f"health_check has {both}: exactly one of them is needed")
    if not 0 <= check.tcp <= 65535:
        raise InvalidInputError(f"health_check.tcp {check.tcp} is not between 1 and 65535")
    if check.exec and not check.exec[0]:
        raise InvalidInputError("health_check.exec: the first word, the program, is empty")
    _check_duration("interval", check.interval, SECOND)
    _check_duration("timeout", check.timeout, SECOND // 10)
    _check_duration("start_period", check.start_period or "0s", 0)
    if not 0 < check.retries <= MOST_HEALTH_RETRIES:
        raise InvalidInputError(
            f"health_check.retries {check.retries} is not between 1 and {MOST_HEALTH_RETRIES}"
        )


def _check_duration(field: str, text: str, least: int) -> None:
    try:
        value = parse_duration(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"health_check.{field}: {error}") from None
    if not least <= value <= LONGEST_HEALTH:
        raise InvalidInputError(
            f"health_check.{field} {text} is not between {format_duration(least)} and {format_duration(LONGEST_HEALTH)}"
        )
