# SPDX-License-Identifier: Apache-2.0
"""The feature `SoftwareUpdatable`: containers as installed software, installed and removed by jobs.

Both operations are answered as soon as their argument is read. The jobs follow one another in one lane. They publish
their progress in `lastOperation` and, when they fail, in `lastFailedOperation` before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pycm.twin.features import Arguments, Feature, Reaction
from pycm.twin.features.container_config import check_create
from pycm.twin.lanes import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pycm.config.types import Policy
    from pycm.model.container import Container
    from pycm.twin.features import Operations

ID = "SoftwareUpdatable"
STATUS_PATH = f"/features/{ID}/properties/status"
DEPENDENCIES_PATH = f"{STATUS_PATH}/installedDependencies"
LAST, LAST_FAILED = "lastOperation", "lastFailedOperation"


def dependencies(containers: Iterable[Container]) -> dict[str, Any]:
    """installedDependencies, sorted by key. The split at the first colon also cuts registry ports: backends expect such
    keys.
    """
    found = {}
    for container in containers:
        group, _, version = container.image.name.partition(":")
        key = f"{group}.{container.id}:{version}".replace("/", "%2F")
        found[key] = {"group": group, "name": container.id, "version": version}
    return dict(sorted(found.items()))


class SoftwareUpdatable(Feature):
    """*containers*: those that the twin shows. *known*: whether there is a container with this id."""

    definition = "org.eclipse.hawkbit.swupdatable:SoftwareUpdatable:2.0.0"
    unsupported = "unsupported operation called [operationId = {operation}]"  # compat
    once = frozenset({"install"})

    def __init__(
        self,
        containers: Callable[[], Iterable[Container]],
        known: Callable[[str], bool],
        policy: Policy,
        *,
        mask_env: bool = False,
    ) -> None:
        self._containers = containers
        self._known = known
        self._policy = policy
        self._mask_env = mask_env
        #: The last published statuses by name. They outlive a loss of the connection and, by the core's Keep, the
        # agent.
        self.statuses: dict[str, Any] = {}

    def value(self) -> dict[str, Any]:
        status: dict[str, Any] = {"softwareModuleType": "oci:container"}
        status.update((name, self.statuses[name]) for name in (LAST, LAST_FAILED) if name in self.statuses)
        if installed := self.installed():
            status["installedDependencies"] = installed
        return {**super().value(), "properties": {"status": status}}

    def installed(self) -> dict[str, Any] | None:
        """None, which is sent as null, if there is no container."""
        return dependencies(self._containers()) or None

    def restore(self, statuses: Mapping[str, Any]) -> None:
        """Take the statuses from before a restart of the agent. A job that the restart interrupted has failed."""
        self.statuses = {
            name: statuses[name] for name in (LAST, LAST_FAILED) if isinstance(statuses.get(name), dict)
        }
        if LAST not in self.statuses:
            return
        from pycm.twin.features.software_jobs import interrupted

        if failed := interrupted(self.statuses[LAST]):
            self.statuses = {LAST: failed, LAST_FAILED: failed}

    def _install(self, _: str, argument: Any) -> Reaction:
        from pycm.twin.features.software_jobs import install, read_modules  # loaded with the first job

        modules = read_modules(Arguments(argument))
        check_create(self._policy)
        job = install(modules, self._policy, mask_env=self._mask_env)
        return Reaction(task=Task(ID, job))

    def _remove(self, _: str, argument: Any) -> Reaction:
        from pycm.twin.features.software_jobs import read_software, remove

        software = read_software(Arguments(argument))
        return Reaction(task=Task(ID, remove(software, self._known)))

    operations: ClassVar[Operations] = {"install": _install, "remove": _remove}
