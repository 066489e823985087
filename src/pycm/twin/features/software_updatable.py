# SPDX-License-Identifier: Apache-2.0
"""The feature `SoftwareUpdatable`: containers as installed software, installed and removed in jobs (shared specification, mqtt-twin 4.3).

Both operations are answered as soon as their argument is understood. Jobs then follow one another in a lane of their own, and tell how
they get on in `lastOperation` and, where they fail, first in `lastFailedOperation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.twin.features.base import Arguments, Feature, Reaction
from pycm.twin.features.container_config import check_create
from pycm.twin.lanes import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pycm.config.types import Policy
    from pycm.model.container import Container

ID = "SoftwareUpdatable"
STATUS_PATH = f"/features/{ID}/properties/status"
DEPENDENCIES_PATH = f"{STATUS_PATH}/installedDependencies"
LAST, LAST_FAILED = "lastOperation", "lastFailedOperation"


def dependencies(containers: Iterable[Container]) -> dict[str, Any]:
    """installedDependencies, sorted by key. The split at the first colon also cuts registry ports: backends know the keys that way."""
    found = {}
    for container in containers:
        group, _, version = container.image.name.partition(":")
        key = f"{group}.{container.id}:{version}".replace("/", "%2F")
        found[key] = {"group": group, "name": container.id, "version": version}
    return dict(sorted(found.items()))


class SoftwareUpdatable(Feature):
    """*containers*: those that the twin shows. *known*: whether there is a container with this id."""

    definition = "org.eclipse.hawkbit.swupdatable:SoftwareUpdatable:2.0.0"
    unsupported = "unsupported operation called [operationId = {operation}]"
    once = frozenset({"install"})

    def __init__(
        self,
        containers: Callable[[], Iterable[Container]],
        known: Callable[[str], bool],
        policy: Policy,
        *,
        mask_env: bool = False,
    ) -> None:
        super().__init__()
        self.operations = {"install": self._install, "remove": self._remove}
        self._containers = containers
        self._known = known
        self._policy = policy
        self._mask_env = mask_env
        #: The last told statuses by name; they outlive a loss of the connection and, by the core's Keep, the agent.
        self.told: dict[str, Any] = {}

    def value(self) -> dict[str, Any]:
        status: dict[str, Any] = {"softwareModuleType": "oci:container"}
        status.update((name, self.told[name]) for name in (LAST, LAST_FAILED) if name in self.told)
        if installed := self.installed():
            status["installedDependencies"] = installed
        return {**super().value(), "properties": {"status": status}}

    def installed(self) -> dict[str, Any] | None:
        """None, not {}, if there is no container: it is sent as null."""
        return dependencies(self._containers()) or None

    def restore(self, told: Mapping[str, Any]) -> None:
        """After a start of the agent. A job that its end has interrupted will not go on, and says so."""
        self.told = {name: told[name] for name in (LAST, LAST_FAILED) if isinstance(told.get(name), dict)}
        if LAST not in self.told:
            return
        from pycm.twin.features.software_jobs import interrupted

        failed = interrupted(self.told[LAST])
        if failed:
            self.told = {LAST: failed, LAST_FAILED: failed}

    def _install(self, _: str, argument: Any) -> Reaction:
        from pycm.twin.features.software_jobs import Modules, install  # the first job pays for it

        modules = Modules.read(Arguments(argument))
        check_create(self._policy)
        return Reaction(task=Task(ID, install(modules, STATUS_PATH, self._policy, mask_env=self._mask_env)))

    def _remove(self, _: str, argument: Any) -> Reaction:
        from pycm.twin.features.software_jobs import Software, remove

        software = Software.read(Arguments(argument))
        return Reaction(task=Task(ID, remove(software, STATUS_PATH, self._known)))
