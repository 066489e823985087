# SPDX-License-Identifier: Apache-2.0
"""What may be asked for over MQTT (section things.policy of the configuration). Pure.

Whoever reaches the broker may send commands. Without a policy, as in the original, some of them give root on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.config.types import Policy
from pycm.model.container import HostConfig, LogConfiguration, LogDriverConfiguration
from pycm.twin.features.arguments import Arguments
from pycm.twin.features.container_config import container_of
from pycm.twin.problems import Kind, Problem

if TYPE_CHECKING:
    from pycm.model.container import Container
    from pycm.twin.features.base import Handler

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
