# SPDX-License-Identifier: Apache-2.0
"""The feature `SoftwareUpdatable`: the list of containers as installed software (shared specification, mqtt-twin 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.twin.features.base import Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pycm.model.container import Container

ID = "SoftwareUpdatable"
DEPENDENCIES_PATH = f"/features/{ID}/properties/status/installedDependencies"


def dependencies(containers: Iterable[Container]) -> dict[str, Any]:
    """installedDependencies, sorted by key. The split at the first colon also cuts registry ports: backends know the keys that way."""
    found = {}
    for container in containers:
        group, _, version = container.image.name.partition(":")
        key = f"{group}.{container.id}:{version}".replace("/", "%2F")
        found[key] = {"group": group, "name": container.id, "version": version}
    return dict(sorted(found.items()))


class SoftwareUpdatable(Feature):
    definition = "org.eclipse.hawkbit.swupdatable:SoftwareUpdatable:2.0.0"
    unsupported = "unsupported operation called [operationId = {operation}]"

    def __init__(self, containers: Callable[[], Iterable[Container]]) -> None:
        super().__init__()
        self._containers = containers

    def value(self) -> dict[str, Any]:
        status: dict[str, Any] = {"softwareModuleType": "oci:container"}
        if installed := self.installed():
            status["installedDependencies"] = installed
        return {**super().value(), "properties": {"status": status}}

    def installed(self) -> dict[str, Any] | None:
        """None, not {}, if there is no container: it is sent as null."""
        return dependencies(self._containers()) or None
