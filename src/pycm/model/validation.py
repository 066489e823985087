# SPDX-License-Identifier: Apache-2.0
"""The rules for a container description: one function a part, in the order that decides which error comes first.

Texts of Kanto are kept byte for byte, since clients compare them (docs/spec/container.md, "Validation"). Where pycm
refuses more (ids, ports, capability names), the error names the field too. Every failure is an InvalidInputError.
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
from pycm.model.records import excess, stored, walk
from pycm.model.units import cpu_quota, cpus_of, size_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pycm.model.records import Record

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE"
    " NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO"
    " SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME"
    " SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG"
    " WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
#: All capabilities that Linux 6.x knows, in the order of their numbers.
CAPABILITIES = tuple(f"CAP_{name}" for name in _CAPABILITIES.split())
#: containerd's own rule for identifiers; no match can leave a directory.
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
#: The kernel's resource limits: "RLIMIT_<NAME>" of the OCI specification in lower case.
_ULIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
)
ULIMITS = frozenset(_ULIMITS.split())
#: Bounds of the kernel: weights of CPU time, and processes of a machine.
CPU_SHARES = (2, 262_144)
MOST_PIDS = 4_194_304
_PERMISSIONS = re.compile(r"[rwm]{1,3}")
_RUNTIME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)+")
_USER = re.compile(r"[^\s:]+(:[^\s:]+)?")
LONGEST_HEALTH = 24 * 3600 * SECOND
MOST_HEALTH_RETRIES = 1000


def is_identifier(text: str) -> bool:
    """Whether containerd accepts *text* as the name of a container, namespace or lease."""
    return len(text) <= _ID_MAX and _ID.fullmatch(text) is not None


def masked_variable(variable: str) -> str:
    """NAME=VALUE without the value. A text without a valid name may be part of a value, and is masked whole."""
    name, equals, _ = variable.partition("=")
    if not _ENV.fullmatch(name):
        return "***"
    return f"{name}=***" if equals else name


def _require(holds: object, text: str, field: str = "") -> None:
    if not holds:
        raise InvalidInputError(text, field=field)


def _shown(text: str) -> str:
    """*text* as it came if that is harmless, since clients compare these texts; else quoted and shortened."""
    return text if text.isprintable() and len(text) <= 256 else shorten(text)


def check_id(identifier: str) -> None:
    """Check an id that will become part of a path or a name in containerd."""
    _require(
        is_identifier(identifier), f"invalid container id format : {_shown(identifier)}", "container_id"
    )  # compat


def check_name(name: str) -> None:
    """A name may be empty; it never becomes part of a path."""
    valid = not name or _NAME.fullmatch(name)
    _require(valid, f"invalid container name format : {_shown(name)}", "container_name")  # compat
    check_bounds(Container(name=name))


def check_bounds(record: Record) -> None:
    """Check the bounds of the fields of *record*, and of a whole container (see model.container)."""
    for text in excess(record):
        raise InvalidInputError(text, field=text.partition(" ")[0])
    if isinstance(record, Container):
        size = len(stored(record))
        _require(size <= LARGEST, f"the description has {size} bytes; at most {LARGEST} are allowed")
        unknown = sum(len(dumps(dict(part.extra)).encode()) for _, part in walk(record) if part.extra)
        _require(
            unknown <= MOST_UNKNOWN, f"unknown keys have {unknown} bytes; at most {MOST_UNKNOWN} are allowed"
        )


def validate(container: Container) -> None:
    """Check a whole container whose defaults are filled."""
    _require(container.image.name, "the containers image configuration is invalid", "image.name")  # compat
    check_bounds(container)
    check_name(container.name)
    _check_hosts_word("host_name", container.host_name)
    _check_hosts_word("domain_name", container.domain_name)
    for hook in container.hooks:
        _require(
            hook.path.startswith("/"), f"hook path {shorten(hook.path)} is not an absolute path", "hooks"
        )
        text = f"hook {shorten(hook.path)}: timeout {hook.timeout} is negative; 0 is none"
        _require(hook.timeout >= 0, text, "hooks")
    for number, mount in enumerate(container.mount_points):
        _check_mount(mount, f"mount_points[{number}]")
    if container.host_config is None:
        raise InvalidInputError("the containers host config is mandatory and is missing")  # compat
    _check_host_config(container.host_config)
    if container.config is not None:
        _check_config(container.config)
    _require(container.io_config, "the container's IO config is missing", "io_config")  # compat
    _check_texts(container)


def _check_texts(container: Container) -> None:
    """A NUL ends a C string: the kernel would ignore what follows it."""
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
                raise InvalidInputError(f"{field}: {shorten(value)}{end}", field=field, masked=masked)


def _check_mount(mount: MountPoint, field: str) -> None:
    complete = mount.source and mount.destination
    _require(complete, "source and destination must be set for a mount point", field)  # compat
    known = mount.propagation_mode in PROPAGATION_MODES
    _require(known, "propagation mode must be set to one of the supported modes", field)  # compat
    _require(
        mount.source.startswith("/"),
        f"{field}.source must be an absolute path, got {shorten(mount.source)}; relative paths and named volumes"
        " are not supported, use a path such as /srv/data",
        f"{field}.source",
    )
    _require(
        normpath("/" + mount.destination).strip("/"),
        f"mount destination {shorten(mount.destination)} would hide the container's own files: name a directory"
        " below /",
        f"{field}.destination",
    )


def _check_host_config(host: HostConfig) -> None:
    both = "cannot create the container as privileged and with {} at the same time - choose one of the options"  # compat
    _require(not (host.privileged and host.devices), both.format("specified devices"))
    _require(not (host.privileged and host.extra_capabilities), both.format("extra capabilities"))
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
    # containerd would execute a path as the program of a runtime
    text = f"runtime {shorten(host.runtime)} is not the name of a runtime of containerd, such as io.containerd.runc.v2"
    _require(not host.runtime or _RUNTIME.fullmatch(host.runtime), text, "host_config.runtime")
    text = f"unsupported seccomp profile {_shown(host.seccomp_profile)}: {UNCONFINED}, or none for the default one"
    _require(host.seccomp_profile in ("", UNCONFINED), text, "host_config.seccomp_profile")


def _check_network(host: HostConfig) -> None:
    mode = host.network_mode
    _require(mode, "network mode is not set", "host_config.network_mode")  # compat
    _require(
        mode in (BRIDGE, HOST), f"unsupported network mode {_shown(mode)}", "host_config.network_mode"
    )  # compat
    if mode == HOST:
        text = "cannot use port mappings when in host network mode"  # compat
        _require(not host.port_mappings, text, "host_config.port_mappings")
        text = "cannot use the host_ip reserved key or any of its modifications when in host network mode"  # compat
        reserved = any(_HOST_TOKEN.fullmatch(entry.partition(":")[2]) for entry in host.extra_hosts)
        _require(not reserved, text, "host_config.extra_hosts")


def _check_ulimits(ulimits: Iterable[Ulimit]) -> None:
    field = "host_config.ulimits"
    seen: set[str] = set()
    for limit in ulimits:
        name, soft, hard = limit.name, limit.soft, limit.hard
        known = f"ulimit {shorten(name)} is not one of {', '.join(sorted(ULIMITS))}"
        _require(name in ULIMITS, known, field)
        _require(name not in seen, f"ulimit {name} is given twice", field)
        seen.add(name)
        text = f"ulimit {name}: limits cannot be negative, except -1 for unlimited"
        _require(soft >= -1 and hard >= -1, text, field)
        text = f"ulimit {name}: the soft limit {soft} is higher than the hard limit {hard}"
        _require(hard == -1 or -1 < soft <= hard, text, field)


def _check_port(port: PortMapping) -> None:
    field, mapping = "host_config.port_mappings", f"port mapping {port.host_port}:{port.container_port}"
    for what, number in (("container port", port.container_port), ("host port", port.host_port)):
        _require(0 < number <= 65535, f"{mapping}: {what} must be 1 to 65535", field)
    text = f"{mapping}: protocol {shorten(port.proto)} is not tcp, udp or sctp"
    _require(port.proto in PROTOCOLS, text, field)
    text = f"host port range {port.host_port}-{port.host_port_end} ends before it begins"
    _require(not port.host_port_end or port.host_port_end >= port.host_port, text, field)


def _check_device(device: DeviceMapping) -> None:
    field, host, inside = "host_config.devices", device.path_on_host, device.path_in_container
    text = "both path on the host and in the container must be specified for a device mapping"  # compat
    _require(host and inside, text, field)
    text = f"device path_on_host must be an absolute path, got {shorten(host)}; use one such as /dev/ttyS0"
    _require(host.startswith("/"), text, field)
    text = f"the cgroup permissions for device mapping {host}:{inside} are not provided"  # compat
    _require(device.cgroup_permissions, text, field)
    text = (
        f"device {shorten(host)}: cgroup permissions {shorten(device.cgroup_permissions)} are not of r, w, m"
    )
    _require(_PERMISSIONS.fullmatch(device.cgroup_permissions), text, field)


def _check_hosts_word(field: str, name: str) -> None:
    """The name is written to the hosts file, where a blank, a comment or a line feed would begin another entry."""
    valid = name.isprintable() and " " not in name and "#" not in name
    _require(valid, f"{field} {shorten(name)} is not a name: no blanks, # and control characters", field)


def _check_capability(name: str) -> None:
    """The runtime would ignore an unknown name, and the container would run without the capability."""
    meant = "CAP_" + name.upper().removeprefix("CAP_")
    more = f", use {meant}" if meant in CAPABILITIES else ""
    _require(
        name in CAPABILITIES, f"unknown capability {_shown(name)}{more}", "host_config.extra_capabilities"
    )


def check_log(log: LogConfiguration | None) -> None:
    """A known driver and mode, readable sizes, an absolute root directory."""
    driver = log.driver_config if log else None
    mode = log.mode_config if log else None
    if driver is None or driver.type not in ("json-file", "none"):
        raise InvalidInputError("unsupported log driver configuration", field=_LOG)  # compat
    if driver.type == "json-file":
        _require(driver.max_files >= 1, "max log files cannot be < 1", _LOG)  # compat
        _require(driver.max_size, "max logs size must be set", _LOG)  # compat
        _bytes(driver.max_size, "max logs size")
        text = f"log root directory {shorten(driver.root_dir)} is not an absolute path"
        _require(not driver.root_dir or driver.root_dir.startswith("/"), text, _LOG)
    if mode is None or mode.mode not in ("blocking", "non-blocking"):
        raise InvalidInputError("unsupported log mode configuration", field=_LOG)  # compat
    if mode.mode == "non-blocking":
        _require(mode.max_buffer_size, "max buffer size must be set", _LOG)  # compat
        _bytes(mode.max_buffer_size, "max buffer size")


_LOG, _POLICY, _RESOURCES = "host_config.log_config", "host_config.restart_policy", "host_config.resources"


def _bytes(text: str, what: str) -> int:
    try:
        return size_to_bytes(text)
    except InvalidInputError:
        raise InvalidInputError(f"invalid format of {what} - {_shown(text)}") from None  # compat


def check_restart_policy(policy: RestartPolicy | None) -> None:
    """A known type; retries only with on-failure; nothing negative."""
    if policy is not None:
        check_bounds(policy)
    if policy is None or policy.type not in RESTART_TYPES:
        text = f"unsupported restart policy type {_shown(policy.type) if policy else ''}"  # compat
        raise InvalidInputError(text, field=_POLICY)
    text = f"cannot use max retry count when the restart policy is {policy.type}"  # compat
    _require(policy.type == "on-failure" or not policy.maximum_retry_count, text, _POLICY)
    _require(
        policy.maximum_retry_count >= 0, "restart policy max retry count cannot be negative", _POLICY
    )  # compat
    # it caps the delays of every type: a negative one would restart without a pause
    _require(policy.retry_timeout >= 0, "restart policy retry timeout cannot be negative", _POLICY)


def check_resources(resources: Resources | None) -> None:
    """Limits that the kernel accepts, and memory limits that fit each other."""
    if resources is None:
        return
    check_bounds(resources)
    _check_memory(resources)
    if resources.cpus:
        cpu_quota(resources.cpus)
    if resources.cpuset_cpus:
        cpus_of(resources.cpuset_cpus)
    shares, (least, most) = resources.cpu_shares, CPU_SHARES
    text = f"cpu_shares {shares} is not between {least} and {most}"
    _require(not shares or least <= shares <= most, text, f"{_RESOURCES}.cpu_shares")
    text = f"pids_limit {resources.pids_limit} is not between 1 and {MOST_PIDS}; 0 means no limit"
    _require(0 <= resources.pids_limit <= MOST_PIDS, text, f"{_RESOURCES}.pids_limit")


def _check_memory(resources: Resources) -> None:
    """At least 3 MiB, reservation at most memory, swap (which includes memory) at least memory. Texts: compat."""
    memory = _bytes(resources.memory, "memory") if resources.memory else 0
    _require(not 0 < memory < MINIMUM_MEMORY, "minimum memory allowed is 3M", _RESOURCES)  # compat
    text = resources.memory_reservation
    reservation = _bytes(text, "memory reservation") if text else 0
    text = f"reservation memory - {text} must be lower than memory - {resources.memory}"  # compat
    _require(not memory or reservation <= memory, text, _RESOURCES)
    text = resources.memory_swap
    swap = _bytes(text, "swap memory") if text and text != "-1" else 0
    _require(not swap or memory, f"swap memory - {text}, memory must be set as well", _RESOURCES)  # compat
    text = f"swap memory - {text} is less than memory - {resources.memory}"  # compat
    _require(not swap or swap >= memory, text, _RESOURCES)


def _check_config(config: ContainerConfiguration) -> None:
    for number, entry in enumerate(config.env):
        if not _ENV.fullmatch(entry):
            what, field = (
                "invalid environmental variable declaration provided : ",
                f"config.env[{number}]",
            )  # compat
            masked = f"{what}{masked_variable(entry)} ({field})"
            raise InvalidInputError(what + _shown(entry), field=field, masked=masked)
    text = f"user {shorten(config.user)} is not of the form user or user:group"
    _require(not config.user or _USER.fullmatch(config.user), text, "config.user")
    text = f"working_dir {shorten(config.working_dir)} is not an absolute path"
    _require(not config.working_dir or config.working_dir.startswith("/"), text, "config.working_dir")
    if config.health_check is not None:
        _check_health(config.health_check)


def _check_health(check: HealthCheck) -> None:
    """One way to check, and times in which it can succeed."""
    both = "both exec and tcp" if check.exec else "neither exec nor tcp"
    text = f"health_check has {both}: exactly one of them is needed"
    _require(bool(check.exec) != bool(check.tcp), text, "config.health_check")
    text = f"health_check.tcp {check.tcp} is not between 1 and 65535"
    _require(0 <= check.tcp <= 65535, text, "config.health_check.tcp")
    text = "health_check.exec: the first word, the program, is empty"
    _require(not check.exec or check.exec[0], text, "config.health_check.exec")
    _check_duration("interval", check.interval, SECOND)
    _check_duration("timeout", check.timeout, SECOND // 10)
    _check_duration("start_period", check.start_period or "0s", 0)
    text = f"health_check.retries {check.retries} is not between 1 and {MOST_HEALTH_RETRIES}"
    _require(0 < check.retries <= MOST_HEALTH_RETRIES, text, "config.health_check.retries")


def _check_duration(name: str, text: str, least: int) -> None:
    try:
        value = parse_duration(text)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"health_check.{name}: {error}", field=f"config.health_check.{name}"
        ) from None
    bounds = f"{format_duration(least)} and {format_duration(LONGEST_HEALTH)}"
    shown = f"health_check.{name} {text} is not between {bounds}"
    _require(least <= value <= LONGEST_HEALTH, shown, f"config.health_check.{name}")
