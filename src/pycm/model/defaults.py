# SPDX-License-Identifier: Apache-2.0
"""The defaults of a description, filled in the original's order (docs/spec/container.md, "Defaults")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DeviceMapping,
    HostConfig,
    IOConfig,
    LogConfiguration,
    LogDriverConfiguration,
    LogModeConfiguration,
    PortMapping,
    Resources,
    RestartPolicy,
)
from pycm.model.frozen import replace
from pycm.model.units import size_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_RUNTIME = "io.containerd.runc.v2"
#: Names of runc, which a start replaces by the configured `runc_runtime`.
RUNC_FAMILY = frozenset({"io.containerd.runtime.v1.linux", "io.containerd.runc.v1", DEFAULT_RUNTIME})

BRIDGE, HOST = "bridge", "host"
#: Defaults of a health check.
HEALTH_INTERVAL, HEALTH_TIMEOUT, HEALTH_RETRIES = "30s", "5s", 3


def new_id() -> str:
    import uuid  # only a create needs it

    return str(uuid.uuid4())


def fill_defaults(container: Container, new_id: Callable[[], str] = new_id) -> Container:
    """Return *container* with all defaults but the swap limit; the same object if it has them. See fill_swap."""
    identifier = container.id or new_id()
    name = container.name or identifier
    filled = replace(
        container,
        id=identifier,
        name=name,
        domain_name=container.domain_name or f"{name}-domain",
        host_name=container.host_name or f"{name}-host",
        host_config=_host_config(container.host_config or HostConfig()),
        io_config=container.io_config or IOConfig(),
        mount_points=tuple(
            replace(mount, propagation_mode=mount.propagation_mode or "rprivate")
            for mount in container.mount_points
        ),
        config=_config(container.config),
    )
    return container if filled == container else filled


def _host_config(host: HostConfig) -> HostConfig:
    return replace(
        host,
        log_config=_log(host.log_config or LogConfiguration()),
        restart_policy=host.restart_policy or RestartPolicy(type="unless-stopped"),
        network_mode=host.network_mode or BRIDGE,
        devices=tuple(map(_device, host.devices)),
        port_mappings=tuple(map(_port, host.port_mappings)),
        runtime=host.runtime or DEFAULT_RUNTIME,
    )


def _log(log: LogConfiguration) -> LogConfiguration:
    driver = log.driver_config or LogDriverConfiguration()
    driver = replace(driver, type=driver.type or "json-file")
    if driver.type == "json-file":
        driver = replace(driver, max_files=driver.max_files or 2, max_size=driver.max_size or "100M")
    elif driver.type == "none":
        driver = replace(driver, max_files=0, max_size="")
    mode = log.mode_config or LogModeConfiguration()
    mode = replace(mode, mode=mode.mode or "blocking")
    if mode.mode == "blocking":
        mode = replace(mode, max_buffer_size="")
    elif mode.mode == "non-blocking":
        mode = replace(mode, max_buffer_size=mode.max_buffer_size or "1M")
    return replace(log, driver_config=driver, mode_config=mode)


def _device(device: DeviceMapping) -> DeviceMapping:
    return replace(
        device,
        path_in_container=device.path_in_container or device.path_on_host,
        cgroup_permissions=device.cgroup_permissions or "rwm",
    )


def _port(port: PortMapping) -> PortMapping:
    return replace(
        port,
        host_ip=port.host_ip or "0.0.0.0",
        host_port_end=port.host_port_end or port.host_port,
        proto=(port.proto or "tcp").lower(),
    )


def _config(config: ContainerConfiguration | None) -> ContainerConfiguration | None:
    if config is None or config.health_check is None:
        return config
    check = config.health_check
    filled = replace(
        check,
        interval=check.interval or HEALTH_INTERVAL,
        timeout=check.timeout or HEALTH_TIMEOUT,
        retries=check.retries or HEALTH_RETRIES,
    )
    return replace(config, health_check=filled)


def fill_swap(container: Container) -> Container:
    """For a creation only: a memory limit without a swap limit gets twice as much; "-1" (unlimited) is stored as ""."""
    host = container.host_config
    if host is None or host.resources is None:
        return container
    resources = swap_of(host.resources)
    return replace(container, host_config=replace(host, resources=resources))


def swap_of(resources: Resources) -> Resources:
    """*resources* with the memory_swap of `fill_swap`; validation reports malformed sizes."""
    resources = replace(resources, swap_filled=False)
    if resources.memory_swap == "-1":
        return replace(resources, memory_swap="")
    if resources.memory_swap or not _size(resources.memory):
        return resources
    return replace(resources, memory_swap=_twice(resources.memory), swap_filled=True)


def follow_memory(stored: Resources | None, wanted: Resources | None) -> Resources | None:
    """The *wanted* limits of an update, with a derived swap limit that follows the memory limit.

    Clients send the derived limit back unchanged. It stays while memory fits below it, as in the original; else it is
    derived again, or removed. Records of older versions do not mark it: there, twice the memory counts as derived.
    """
    if stored is None or wanted is None or not stored.memory_swap:
        return wanted
    if wanted.memory_swap != stored.memory_swap:
        return wanted
    if not stored.swap_filled and swap_of(replace(stored, memory_swap="")).memory_swap != stored.memory_swap:
        return wanted
    memory = _size(wanted.memory)
    if memory is None:
        return wanted
    fits = 0 < memory <= (_size(wanted.memory_swap) or 0)
    return replace(wanted, swap_filled=True) if fits else swap_of(replace(wanted, memory_swap=""))


def _size(text: str) -> int | None:
    """Bytes; 0 for no limit, None for a malformed size."""
    try:
        return size_to_bytes(text) if text else 0
    except InvalidInputError:
        return None


def _twice(size: str) -> str:
    number, unit = size[:-1].rstrip(), size[-1]
    doubled = f"{float(number) * 2:.4f}".rstrip("0").rstrip(".")
    return doubled + unit
