# SPDX-License-Identifier: Apache-2.0
"""The feature `ContainerFactory`: it creates containers, and has no properties (shared specification, mqtt-twin 4.2).

With it enabled, each container has a feature of its own (`container.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.twin.envelope import Kind, Problem
from pycm.twin.features.base import Arguments, Feature
from pycm.twin.features.container_config import check_create, container_of
from pycm.twin.lanes import Create, Failed, Start, Task

if TYPE_CHECKING:
    from pycm.config.types import Policy
    from pycm.model.container import Container
    from pycm.twin.lanes import Steps

ID = "ContainerFactory"


class ContainerFactory(Feature):
    definition = "com.bosch.iot.suite.edge.containers:ContainerFactory:1.3.0"
    once = frozenset({"create", "createWithConfig"})

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy
        self.operations = {"create": self._create, "createWithConfig": self._create_with_config}

    def _create(self, _: str, argument: Any) -> Task:
        given = Arguments(argument)
        return self._task(given, container_of(given.text("imageRef"), "", None))

    def _create_with_config(self, _: str, argument: Any) -> Task:
        given = Arguments(argument)
        image, name = given.text("imageRef"), given.text("name")
        return self._task(given, container_of(image, name, given.child("config")))

    def _task(self, given: Arguments, container: Container) -> Task:
        start = given.flag("start")
        check_create(self._policy, container)
        if not container.image.name:
            raise Problem(Kind.FAILED, "imageRef must be set")
        return Task("", _steps(container, start=start))


def _steps(container: Container, *, start: bool) -> Steps:
    """A start that fails is no failure of the creation: the container's state says why it does not run."""
    created = yield Create(container)
    if start:
        try:
            yield Start(created.id)
        except Failed:
            pass  # the manager has put the reason into the container's state, and the state into the twin
    return created.id
