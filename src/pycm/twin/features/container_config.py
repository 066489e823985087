# SPDX-License-Identifier: Apache-2.0
"""The twin's form of a container's configuration, read (shared specification, mqtt-twin 4.1); `container.py` writes it.

Words that are not the twin's pass unchanged, so that the internal ones (`bridge`, `on-failure`) are accepted too and wrong ones are
refused by the manager; for propagation modes, which have a default for every wrong word in the original, they are refused here.


What may be asked for over MQTT (section things.policy of the configuration). Pure.

Whoever reaches the broker may send commands. Without a policy, as in the original, some of them give root on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from pycm.model.units import NANOSECONDS
from pycm.twin.envelope import Kind, Problem
from pycm.twin.features.base import Arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.twin.features.base import Handler


_PORT = 65535

#: Internal word -> the twin's; words that are not here pass unchanged, but for propagation modes.
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


def _internal(words: Mapping[str, str], word: str) -> str:
    return next((ours for ours, theirs in words.items() if theirs == word), word)


def container_of(image: str, name: str, config: Arguments | None) -> Container:
    """What is to be created. Errors: InvalidInputError, for what cannot be read."""
    if config is None:
        return Container(name=name, image=Image(name=image))
    privileged = config.flag("privileged")
    host = HostConfig(
        devices=tuple(map(_device, config.children("devices"))),
        network_mode=_internal(NETWORK_MODES, config.text("networkMode")),
        privileged=privileged,
        restart_policy=restart_policy_of(config.child("restartPolicy")),
        extra_hosts=config.texts("extraHosts"),
        extra_capabilities=() if privileged else config.texts("extraCapabilities"),
        port_mappings=tuple(map(_port, config.children("portMappings"))),
        log_config=_log(config.child("log")),
        resources=resources_of(config.child("resources")),
        ulimits=tuple(map(_ulimit, config.children("ulimits"))),
        seccomp_profile=config.text("seccompProfile"),
    )
    process = ContainerConfiguration(
        env=config.texts("env"),
        cmd=config.texts("cmd"),
        user=config.text("user"),
        working_dir=config.text("workingDir"),
        health_check=_health_check(config.child("healthCheck")),
    )
    return Container(
        name=name,
        image=Image(name=image, decrypt_config=_decryption(config.child("decryption"))),
        domain_name=config.text("domainName"),
        host_name=config.text("hostName"),
        mount_points=tuple(map(_mount, config.children("mountPoints"))),
        config=process if process != ContainerConfiguration() else None,
        host_config=host,
        io_config=IOConfig(open_stdin=config.flag("openStdin"), tty=config.flag("tty")),
    )


def _mount(mount: Arguments) -> MountPoint:
    word = mount.text("propagationMode")
    if word and word.lower() not in PROPAGATION_MODES:
        modes = ", ".join(PROPAGATION_MODES.values())
        raise InvalidInputError(f"{mount.where}.propagationMode: {shorten(word)} is none of {modes}")
    return MountPoint(
        source=mount.text("source"),
        destination=mount.text("destination"),
        propagation_mode=word.lower(),
        read_only=mount.flag("readOnly"),
    )


def _device(device: Arguments) -> DeviceMapping:
    return DeviceMapping(
        path_on_host=device.text("pathOnHost"),
        path_in_container=device.text("pathInContainer"),
        cgroup_permissions=device.text("cgroupPermissions"),
    )


def _port(port: Arguments) -> PortMapping:
    return PortMapping(
        proto=port.text("proto"),
        host_port=port.integer("hostPort", 0, _PORT),
        host_port_end=port.integer("hostPortEnd", 0, _PORT),
        container_port=port.integer("containerPort", 0, _PORT),
        host_ip=port.text("hostIP"),
    )


def _ulimit(limit: Arguments) -> Ulimit:
    soft = limit.integer("soft")
    return Ulimit(name=limit.text("name"), soft=soft, hard=limit.integer("hard") if "hard" in limit else soft)


def _health_check(check: Arguments | None) -> HealthCheck | None:
    if check is None:
        return None
    return HealthCheck(
        exec=check.texts("exec"),
        tcp=check.integer("tcp", 0, _PORT),
        interval=check.text("interval"),
        timeout=check.text("timeout"),
        retries=check.integer("retries"),
        start_period=check.text("startPeriod"),
    )


def _decryption(config: Arguments | None) -> DecryptConfig | None:
    if config is None:
        return None
    return DecryptConfig(keys=config.texts("keys"), recipients=config.texts("recipients"))


def _log(log: Arguments | None) -> LogConfiguration | None:
    if log is None:
        return None
    return LogConfiguration(
        driver_config=LogDriverConfiguration(
            type=_internal(LOG_TYPES, log.text("type")),
            max_files=log.integer("maxFiles"),
            max_size=log.text("maxSize"),
            root_dir=log.text("rootDir"),
        ),
        mode_config=LogModeConfiguration(
            mode=_internal(LOG_MODES, log.text("mode")), max_buffer_size=log.text("maxBufferSize")
        ),
    )


def restart_policy_of(policy: Arguments | None) -> RestartPolicy | None:
    if policy is None:
        return None
    return RestartPolicy(
        type=_internal(RESTART_TYPES, policy.text("type")),
        maximum_retry_count=policy.integer("maxRetryCount"),
        retry_timeout=policy.seconds("retryTimeout") * NANOSECONDS,
    )


def resources_of(resources: Arguments | None) -> Resources | None:
    if resources is None:
        return None
    return Resources(
        memory=resources.text("memory"),
        memory_reservation=resources.text("memoryReservation"),
        memory_swap=resources.text("memorySwap"),
        cpus=resources.text("cpus"),
        cpu_shares=resources.integer("cpuShares"),
        cpuset_cpus=resources.text("cpusetCpus"),
        pids_limit=resources.integer("pidsLimit"),
    )


def stop_options_of(options: Arguments) -> StopOptions:
    return StopOptions(
        timeout=options.integer("timeout"), force=options.flag("force"), signal=options.text("signal")
    )


def update_options_of(options: Arguments) -> UpdateOptions:
    return UpdateOptions(
        restart_policy=restart_policy_of(options.child("restartPolicy")),
        resources=resources_of(options.child("resources")),
    )


#: Everything, as in the original.
ALL = Policy()


def denial(policy: Policy, container: Container, *, descriptor: bool = False) -> str:
    """Why *container* must not be created, "" if it may. *descriptor*: name the fields as descriptors do, not as the twin does."""
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
    for key, asked, name, in_descriptor in rows:
        if asked and not getattr(policy, key):
            return f"{in_descriptor if descriptor else name}: denied by things.policy.{key}"
    return ""


def check_create(policy: Policy, container: Container | None = None) -> None:
    """Problem if nothing may be created, or not this *container*."""
    if not policy.create:
        raise Problem(Kind.FAILED, "creating a container: denied by things.policy.create")
    if container is not None and (reason := denial(policy, container)):
        raise Problem(Kind.FAILED, f"config.{reason}")


def guarded(policy: Policy, handler: Handler) -> Handler:
    """*handler* for arguments in which no member asks for what is denied, though it would ignore that member."""

    def handle(feature_id: str, argument: Any) -> Any:
        if policy != ALL and (reason := denial(policy, container_of("", "", Arguments(argument)))):
            raise Problem(Kind.FAILED, reason)
        return handler(feature_id, argument)

    return handle
