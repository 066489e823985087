# SPDX-License-Identifier: Apache-2.0
"""A container's configuration in the twin's form, read and written with one table, and what `things.policy` denies of
it.

A table's row is (name in the twin, attribute of pycm's model, kind), in the order in which the original writes them.
What is empty, false or 0 is left out when written, unless the row is in `always`. Unknown words pass unchanged, so that
internal ones (`bridge`, `on-failure`) are accepted too and the container manager refuses wrong ones. Wrong propagation
modes are refused here: the original has a default for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.types import Policy
from pycm.errors import InvalidInputError, shorten
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DecryptConfig,
    DeviceMapping,
    HealthCheck,
    HostConfig,
    Image,
    IOConfig,
    LogConfiguration,
    LogDriverConfiguration,
    LogModeConfiguration,
    MountPoint,
    PortMapping,
    Resources,
    RestartPolicy,
    StopOptions,
    Ulimit,
    UpdateOptions,
)
from pycm.model.frozen import replace
from pycm.model.units import NANOSECONDS
from pycm.model.validation import masked_variable
from pycm.twin.envelope import Kind, Problem
from pycm.twin.features import Arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

#: Internal word -> the twin's word.
NETWORK_MODES = {"bridge": "BRIDGE", "host": "HOST"}
RESTART_TYPES = {
    "always": "ALWAYS",
    "on-failure": "ON_FAILURE",
    "unless-stopped": "UNLESS_STOPPED",
    "no": "NO",
}
LOG_TYPES = {"json-file": "JSON_FILE", "none": "NONE"}
LOG_MODES = {"blocking": "BLOCKING", "non-blocking": "NON_BLOCKING"}
PROPAGATION_MODES = {
    mode: mode.upper() for mode in ("rprivate", "private", "rshared", "shared", "rslave", "slave")
}


# ── kinds of values ──


class Value(NamedTuple):
    """`read` takes the arguments and the name, `write` the model's value."""

    read: Callable[[Arguments, str], Any]
    write: Callable[[Any], Any] = lambda value: value


TEXT, FLAG, INTEGER = Value(Arguments.text), Value(Arguments.flag), Value(Arguments.integer)
TEXTS = Value(Arguments.texts, list)
PORT = Value(lambda given, name: given.integer(name, 0, 65535))


def _word(words: Mapping[str, str]) -> Value:
    internal = {theirs: ours for ours, theirs in words.items()}

    def read(given: Arguments, name: str) -> str:
        word = given.text(name)
        return internal.get(word, word)

    return Value(read, lambda word: words.get(word, word))


class Form:
    """An object in the twin. *parts*: attributes, with their classes, whose own ones rows name with a dot."""

    def __init__(
        self,
        make: Callable[..., Any],
        *rows: tuple[str, str, Value],
        always: Collection[str] = (),
        parts: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._make = make
        self._parts = parts or {}
        self._rows = [(name, *path.rpartition(".")[::2], kind, name in always) for name, path, kind in rows]

    def read(self, given: Arguments, **more: Any) -> Any:
        """Raises InvalidInputError."""
        found: dict[str, dict[str, Any]] = {"": {}, **{part: {} for part in self._parts}}
        for name, part, attribute, kind, _ in self._rows:
            found[part][attribute] = kind.read(given, name)
        parts = {part: make(**found[part]) for part, make in self._parts.items()}
        return self._make(**found[""], **{**parts, **more})

    def write(self, item: Any) -> dict[str, Any]:
        found = {"": item, **{part: getattr(item, part) or make() for part, make in self._parts.items()}}
        values = {}
        for name, part, attribute, kind, always in self._rows:
            value = kind.write(getattr(found[part], attribute))
            if value or (always and value is not None):
                values[name] = value
        return values

    def read_child(self, given: Arguments, name: str) -> Any:
        child = given.child(name)
        return None if child is None else self.read(child)

    def read_children(self, given: Arguments, name: str) -> tuple[Any, ...]:
        return tuple(map(self.read, given.children(name)))

    def write_child(self, item: Any) -> dict[str, Any] | None:
        return None if item is None else self.write(item)

    def write_children(self, items: Iterable[Any]) -> list[dict[str, Any]]:
        return list(map(self.write, items))


def _child(form: Form) -> Value:
    return Value(form.read_child, form.write_child)


def _children(form: Form) -> Value:
    return Value(form.read_children, form.write_children)


def _read_propagation(mount: Arguments, name: str) -> str:
    word = mount.text(name)
    if word and word.lower() not in PROPAGATION_MODES:
        modes = ", ".join(PROPAGATION_MODES.values())
        raise InvalidInputError(f"{mount.where}.{name} must be one of {modes}, got {shorten(word)}")
    return word.lower()


def masked(key: str) -> str:
    """A key specification ("FILE", "FILE:PASSWORD", "FILE:pass=PASSWORD") without what may be a password."""
    file, colon, _ = key.partition(":")
    return f"{file}:***" if colon else key


# ── the tables ──

_KEYS = Value(Arguments.texts, lambda keys: list(map(masked, keys)))
_PROPAGATION = Value(_read_propagation, lambda mode: PROPAGATION_MODES.get(mode, "RPRIVATE"))
_SECONDS = Value(
    lambda given, name: given.seconds(name) * NANOSECONDS, lambda duration: duration / NANOSECONDS
)
_HARD = Value(lambda limit, name: limit.integer(name if name in limit else "soft"))
_CAPABILITIES = Value(lambda given, name: () if given.flag("privileged") else given.texts(name), list)

# fmt: off
_MOUNT = Form(
    MountPoint,
    ("source", "source", TEXT),
    ("destination", "destination", TEXT),
    ("propagationMode", "propagation_mode", _PROPAGATION),
    ("readOnly", "read_only", FLAG),
    always=("source", "destination", "propagationMode"),
)
_DEVICE = Form(
    DeviceMapping,
    ("pathOnHost", "path_on_host", TEXT),
    ("pathInContainer", "path_in_container", TEXT),
    ("cgroupPermissions", "cgroup_permissions", TEXT),
    always=("pathOnHost", "pathInContainer", "cgroupPermissions"),
)
_DECRYPTION = Form(DecryptConfig, ("keys", "keys", _KEYS), ("recipients", "recipients", TEXTS))
_RESTART_POLICY = Form(
    RestartPolicy,
    ("maxRetryCount", "maximum_retry_count", INTEGER),
    ("retryTimeout", "retry_timeout", _SECONDS),
    ("type", "type", _word(RESTART_TYPES)),
)
_PORTS = Form(
    PortMapping,
    ("proto", "proto", TEXT),
    ("hostPort", "host_port", PORT),
    ("hostPortEnd", "host_port_end", PORT),
    ("containerPort", "container_port", PORT),
    ("hostIP", "host_ip", TEXT),
    always=("hostPort", "containerPort"),
)
_LOG = Form(
    LogConfiguration,
    ("type", "driver_config.type", _word(LOG_TYPES)),
    ("maxFiles", "driver_config.max_files", INTEGER),
    ("maxSize", "driver_config.max_size", TEXT),
    ("rootDir", "driver_config.root_dir", TEXT),
    ("mode", "mode_config.mode", _word(LOG_MODES)),
    ("maxBufferSize", "mode_config.max_buffer_size", TEXT),
    parts={"driver_config": LogDriverConfiguration, "mode_config": LogModeConfiguration},
)
_RESOURCES = Form(
    Resources,
    ("memory", "memory", TEXT),
    ("memoryReservation", "memory_reservation", TEXT),
    ("memorySwap", "memory_swap", TEXT),
    ("cpus", "cpus", TEXT),
    ("cpuShares", "cpu_shares", INTEGER),
    ("cpusetCpus", "cpuset_cpus", TEXT),
    ("pidsLimit", "pids_limit", INTEGER),
)
_HEALTH_CHECK = Form(
    HealthCheck,
    ("exec", "exec", TEXTS),
    ("tcp", "tcp", PORT),
    ("interval", "interval", TEXT),
    ("timeout", "timeout", TEXT),
    ("retries", "retries", INTEGER),
    ("startPeriod", "start_period", TEXT),
)
_ULIMIT = Form(
    Ulimit, ("name", "name", TEXT), ("soft", "soft", INTEGER), ("hard", "hard", _HARD), always=("name", "soft", "hard")
)
CONFIG = Form(
    Container,
    ("domainName", "domain_name", TEXT),
    ("mountPoints", "mount_points", _children(_MOUNT)),
    ("hostName", "host_name", TEXT),
    ("env", "config.env", TEXTS),
    ("cmd", "config.cmd", TEXTS),
    ("decryption", "image.decrypt_config", _child(_DECRYPTION)),
    ("devices", "host_config.devices", _children(_DEVICE)),
    ("privileged", "host_config.privileged", FLAG),
    ("restartPolicy", "host_config.restart_policy", _child(_RESTART_POLICY)),
    ("extraHosts", "host_config.extra_hosts", TEXTS),
    ("extraCapabilities", "host_config.extra_capabilities", _CAPABILITIES),
    ("portMappings", "host_config.port_mappings", _children(_PORTS)),
    ("networkMode", "host_config.network_mode", _word(NETWORK_MODES)),
    ("openStdin", "io_config.open_stdin", FLAG),
    ("tty", "io_config.tty", FLAG),
    ("log", "host_config.log_config", _child(_LOG)),
    ("resources", "host_config.resources", _child(_RESOURCES)),
    # extensions, which the original does not have
    ("user", "config.user", TEXT),
    ("workingDir", "config.working_dir", TEXT),
    ("healthCheck", "config.health_check", _child(_HEALTH_CHECK)),
    ("ulimits", "host_config.ulimits", _children(_ULIMIT)),
    ("seccompProfile", "host_config.seccomp_profile", TEXT),
    always=("decryption", "restartPolicy", "log", "resources"),
    parts={"host_config": HostConfig, "config": ContainerConfiguration, "io_config": IOConfig, "image": Image},
)
STOP_OPTIONS = Form(StopOptions, ("timeout", "timeout", INTEGER), ("force", "force", FLAG), ("signal", "signal", TEXT))
UPDATE_OPTIONS = Form(
    UpdateOptions,
    ("restartPolicy", "restart_policy", _child(_RESTART_POLICY)),
    ("resources", "resources", _child(_RESOURCES)),
)
# fmt: on


def container_of(image: str, name: str, config: Arguments | None) -> Container:
    """The container to create. Raises InvalidInputError."""
    if config is None:
        return Container(name=name, image=Image(name=image))
    container: Container = CONFIG.read(config, name=name)
    container = replace(container, image=replace(container.image, name=image))
    return container if container.config != ContainerConfiguration() else replace(container, config=None)


def config_value(container: Container, *, mask_env: bool = False) -> dict[str, Any]:
    values = CONFIG.write(container)
    if mask_env and "env" in values:
        values["env"] = list(map(masked_variable, values["env"]))
    if "privileged" in values:
        values.pop("extraCapabilities", None)
    return values


# ── the policy ──


def denial(policy: Policy, container: Container, *, descriptor: bool = False) -> str:
    """Why *container* must not be created, "" if it may. *descriptor*: name the fields as descriptors do, not as the
    twin does.
    """
    host = container.host_config or HostConfig()
    driver = (host.log_config or LogConfiguration()).driver_config or LogDriverConfiguration()
    # fmt: off
    rows = (
        ("privileged", host.privileged, "privileged", "host_config.privileged"),
        ("capabilities", host.extra_capabilities, "extraCapabilities", "host_config.extra_capabilities"),
        ("capabilities", host.seccomp_profile == "unconfined", "seccompProfile", "host_config.seccomp_profile"),
        ("hooks", container.hooks, "hooks", "hooks"),
        ("mounts", container.mount_points, "mountPoints", "mount_points"),
        ("mounts", driver.root_dir, "log.rootDir", "host_config.log_config.driver_config.root_dir"),
        ("devices", host.devices, "devices", "host_config.devices"),
    )
    # fmt: on
    for key, requested, name, in_descriptor in rows:
        if requested and not getattr(policy, key):
            return f"{in_descriptor if descriptor else name}: denied by things.policy.{key}"
    return ""


def check_create(policy: Policy, container: Container | None = None) -> None:
    """Raise Problem if nothing may be created, or not this *container*."""
    if not policy.create:
        raise Problem(Kind.FAILED, "creating a container: denied by things.policy.create")
    if container is not None and (reason := denial(policy, container)):
        raise Problem(Kind.FAILED, f"config.{reason}")


def check_update(policy: Policy, argument: Any) -> None:
    """Raise Problem if a member asks for something that is denied, even though an update ignores that member."""
    if policy != Policy() and (reason := denial(policy, container_of("", "", Arguments(argument)))):
        raise Problem(Kind.FAILED, reason)
