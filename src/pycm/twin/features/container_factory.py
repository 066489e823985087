# SPDX-License-Identifier: Apache-2.0
"""The feature `ContainerFactory`: it creates containers, and has no properties.

While it is enabled, each container has a feature of its own (`container.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pycm.errors import PycmError
from pycm.twin.envelope import Kind, Problem
from pycm.twin.features.base import Arguments, Feature
from pycm.twin.features.container_config import check_create, container_of
from pycm.twin.lanes import CREATIONS, Task

if TYPE_CHECKING:
    from pycm.config.types import Policy
    from pycm.model.container import Container
    from pycm.twin.features.base import Operations
    from pycm.twin.lanes import JobContext

ID = "ContainerFactory"


class ContainerFactory(Feature):
    definition = "com.bosch.iot.suite.edge.containers:ContainerFactory:1.3.0"
    once = frozenset({"create", "createWithConfig"})

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def _create(self, _: str, argument: Any) -> Task:
        given = Arguments(argument)
        return self._task(given, container_of(given.text("imageRef"), "", None))

    def _create_with_config(self, _: str, argument: Any) -> Task:
        given = Arguments(argument)
        image, name = given.text("imageRef"), given.text("name")
        return self._task(given, container_of(image, name, given.child("config")))

    operations: ClassVar[Operations] = {"create": _create, "createWithConfig": _create_with_config}

    def _task(self, given: Arguments, container: Container) -> Task:
        start = given.flag("start")
        check_create(self._policy, container)
        if not container.image.name:
            raise Problem(Kind.FAILED, "imageRef must be set")

        async def job(context: JobContext) -> str:
            return await create(context, container, start=start)

        return Task(CREATIONS, job)


async def create(context: JobContext, container: Container, *, start: bool) -> str:
    """Returns the id. A failed start does not fail the creation: the container's state has the reason, and the twin
    shows it.
    """
    created = await context.containers.create(container)
    if start:
        try:
            await context.attempt(context.containers.start(created.id))
        except PycmError:
            pass
    return created.id
