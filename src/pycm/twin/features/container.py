# SPDX-License-Identifier: Apache-2.0
"""The feature `Container:<id>`: a container's name, image, configuration and state (shared specification, mqtt-twin 4.1).

The tables say how our model's fields are called in the twin, in the order in which the original writes them; what is empty, false or 0
is left out unless a row says otherwise.


The operations of `Container:<id>` (shared specification, mqtt-twin 4.1): all are answered 204 when the manager has done them.

Those of one container follow each other in the order in which they came.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, shorten
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DecryptConfig,
    DeviceMapping,
    HealthCheck,
    HostConfig,
    IOConfig,
    LogConfiguration,
    LogDriverConfiguration,
    LogModeConfiguration,
    MountPoint,
    PortMapping,
    Resources,
    RestartPolicy,
)
from pycm.model.states import OOM_TEXT, Status
from pycm.model.validation import masked_variable
from pycm.twin.envelope import ABSENT
from pycm.twin.features.base import Arguments, Feature
from pycm.twin.features.container_config import (
    LOG_MODES,
    LOG_TYPES,
    NETWORK_MODES,
    PROPAGATION_MODES,
    RESTART_TYPES,
    guarded,
    stop_options_of,
    update_options_of,
)
from pycm.twin.lanes import Operation, Pause, Remove, Rename, Resume, Start, Steps, Stop, Task, Update
from pycm.twin.session import CONTAINER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pycm.config.types import Policy
    from pycm.twin.features.base import Handler


NANOSECONDS = 1_000_000_000


def feature_id(container_id: str) -> str:
    return CONTAINER_PREFIX + container_id


def _without_empty(pairs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in pairs.items() if value}


# ── state ──


def state_value(container: Container, status: Status | None = None) -> dict[str, Any]:
    """*status* overrides the container's own, for the last message of a removed one."""
    state = container.state
    error = state.error or (OOM_TEXT if state.oom_killed else "")
    return {
        "status": (state.status if status is None else status).name,
        **_without_empty(
            {
                "pid": state.pid,
                "error": error,
                "exitCode": state.exit_code,
                "startedAt": state.started_at,
                "finishedAt": state.finished_at,
                "oomKilled": state.oom_killed,
                "health": state.health,
            }
        ),
    }


# ── configuration ──


def config_value(container: Container, *, mask_env: bool = False) -> dict[str, Any]:
    host = container.host_config or HostConfig()
    process = container.config or ContainerConfiguration()
    io = container.io_config or IOConfig()
    values: dict[str, Any] = {
        "domainName": container.domain_name,
        "mountPoints": [_mount(mount) for mount in container.mount_points],
        "hostName": container.host_name,
        "env": list(map(masked_variable, process.env)) if mask_env else list(process.env),
        "cmd": list(process.cmd),
        "decryption": _decryption(container.image.decrypt_config),
        "devices": [_device(device) for device in host.devices],
        "privileged": host.privileged,
        "restartPolicy": _restart_policy(host.restart_policy),
        "extraHosts": list(host.extra_hosts),
        "extraCapabilities": [] if host.privileged else list(host.extra_capabilities),
        "portMappings": [_port(port) for port in host.port_mappings],
        "networkMode": NETWORK_MODES.get(host.network_mode, host.network_mode),
        "openStdin": io.open_stdin,
        "tty": io.tty,
        "log": _log(host.log_config),
        "resources": _resources(host.resources),
        # what Kanto lacks, for those who use it
        "user": process.user,
        "workingDir": process.working_dir,
        "healthCheck": _health_check(process.health_check),
        "ulimits": [{"name": u.name, "soft": u.soft, "hard": u.hard} for u in host.ulimits],
        "seccompProfile": host.seccomp_profile,
    }
    return {
        key: value for key, value in values.items() if value or (key in _EMPTY_SHOWN and value is not None)
    }


#: Objects that are shown as {} when they are set and empty; None when they are not set.
_EMPTY_SHOWN = frozenset({"decryption", "resources", "restartPolicy", "log"})


def _mount(mount: MountPoint) -> dict[str, Any]:
    return {
        "source": mount.source,
        "destination": mount.destination,
        "propagationMode": PROPAGATION_MODES.get(mount.propagation_mode, "RPRIVATE"),
        **({"readOnly": True} if mount.read_only else {}),
    }


def _device(device: DeviceMapping) -> dict[str, Any]:
    return {
        "pathOnHost": device.path_on_host,
        "pathInContainer": device.path_in_container,
        "cgroupPermissions": device.cgroup_permissions,
    }


def _decryption(config: DecryptConfig | None) -> dict[str, Any] | None:
    if config is None:
        return None
    return _without_empty(
        {"keys": [masked(key) for key in config.keys], "recipients": list(config.recipients)}
    )


def masked(key: str) -> str:
    """A key specification ("FILE", "FILE:PASSWORD", "FILE:pass=PASSWORD") without what may be a password."""
    file, colon, _ = key.partition(":")
    return f"{file}:***" if colon else key


def _restart_policy(policy: RestartPolicy | None) -> dict[str, Any] | None:
    if policy is None:
        return None
    return _without_empty(
        {
            "maxRetryCount": policy.maximum_retry_count,
            "retryTimeout": policy.retry_timeout / NANOSECONDS,
            "type": RESTART_TYPES.get(policy.type, policy.type),
        }
    )


def _port(port: PortMapping) -> dict[str, Any]:
    values = {
        "proto": port.proto,
        "hostPort": port.host_port,
        "hostPortEnd": port.host_port_end,
        "containerPort": port.container_port,
        "hostIP": port.host_ip,
    }
    return {key: value for key, value in values.items() if value or key in ("hostPort", "containerPort")}


def _log(config: LogConfiguration | None) -> dict[str, Any] | None:
    if config is None:
        return None
    driver = config.driver_config or LogDriverConfiguration()
    mode = config.mode_config or LogModeConfiguration()
    return _without_empty(
        {
            "type": LOG_TYPES.get(driver.type, driver.type),
            "maxFiles": driver.max_files,
            "maxSize": driver.max_size,
            "rootDir": driver.root_dir,
            "mode": LOG_MODES.get(mode.mode, mode.mode),
            "maxBufferSize": mode.max_buffer_size,
        }
    )


def _resources(resources: Resources | None) -> dict[str, Any] | None:
    if resources is None:
        return None
    return _without_empty(
        {
            "memory": resources.memory,
            "memoryReservation": resources.memory_reservation,
            "memorySwap": resources.memory_swap,
            "cpus": resources.cpus,
            "cpuShares": resources.cpu_shares,
            "cpusetCpus": resources.cpuset_cpus,
            "pidsLimit": resources.pids_limit,
        }
    )


def _health_check(check: HealthCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return _without_empty(
        {
            "exec": list(check.exec),
            "tcp": check.tcp,
            "interval": check.interval,
            "timeout": check.timeout,
            "retries": check.retries,
            "startPeriod": check.start_period,
        }
    )


# ── the feature ──


def status_value(container: Container, *, mask_env: bool = False) -> dict[str, Any]:
    name = {"name": container.name} if container.name else {}
    return {
        **name,
        "imageRef": container.image.name,
        "config": config_value(container, mask_env=mask_env),
        "createdAt": container.created,
        "state": state_value(container),
    }


class ContainerFeature(Feature):
    """All containers share this object: what differs between them is their id. Its operations are in `container_operations.py`."""

    definition = "com.bosch.iot.suite.edge.containers:Container:1.5.0"

    def __init__(
        self, operations: Mapping[str, Handler] = MappingProxyType({}), *, mask_env: bool = False
    ) -> None:
        super().__init__()
        self.operations = operations
        self._mask_env = mask_env

    def value_of(self, container: Container) -> Mapping[str, Any]:
        status = status_value(container, mask_env=self._mask_env)
        return {**self.value(), "properties": {"status": status}}

    def config_of(self, container: Container) -> Mapping[str, Any]:
        return config_value(container, mask_env=self._mask_env)


def _rename(container_id: str, argument: Any) -> Rename | None:
    """No name is no change."""
    if not isinstance(argument, (str, type(None))):
        raise InvalidInputError(f"the argument of rename must be a string, it is {shorten(argument)}")
    return Rename(container_id, argument) if argument else None


def _remove(container_id: str, argument: Any) -> Remove:
    if not isinstance(argument, (bool, type(None))):
        raise InvalidInputError(f"the argument of remove must be true or false, it is {shorten(argument)}")
    return Remove(container_id, force=bool(argument))


#: Name to what makes an operation of the container's id and the argument; None: there is nothing to do.
_MAKERS: Mapping[str, Callable[[str, Any], Operation | None]] = {
    "start": lambda container_id, _: Start(container_id),
    "stop": lambda container_id, _: Stop(container_id),
    "stopWithOptions": lambda container_id, given: Stop(container_id, stop_options_of(Arguments(given))),
    "pause": lambda container_id, _: Pause(container_id),
    "resume": lambda container_id, _: Resume(container_id),
    "rename": _rename,
    "remove": _remove,
    "update": lambda container_id, given: Update(container_id, update_options_of(Arguments(given))),
}


def _handler(make: Callable[[str, Any], Operation | None]) -> Handler:
    def handle(feature_id: str, argument: Any) -> Task:
        operation = make(feature_id.removeprefix(CONTAINER_PREFIX), argument)
        return Task(feature_id, _steps(operation))

    return handle


def _steps(operation: Operation | None) -> Steps:
    if operation is not None:
        yield operation
    return ABSENT


def operations_under(policy: Policy) -> Mapping[str, Handler]:
    """The operations by name. An update that asks for what *policy* denies is refused, though it would change nothing of the kind."""
    handlers = {name: _handler(make) for name, make in _MAKERS.items()}
    return {**handlers, "update": guarded(policy, handlers["update"])}
