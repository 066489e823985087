# SPDX-License-Identifier: Apache-2.0
"""The features `Container:<id>`, with name, image, configuration and state of a container, and `ContainerFactory`.

While the factory is enabled, each container has a feature of its own. Its operations are answered 204 when the
container manager has finished them; those of one container run in the order of their arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pycm.config.types import Policy
from pycm.errors import InvalidInputError, PycmError, shorten
from pycm.model.states import OOM_TEXT, Status
from pycm.twin.envelope import Kind, Problem
from pycm.twin.features import Arguments, Feature
from pycm.twin.features.container_config import (
    STOP_OPTIONS,
    UPDATE_OPTIONS,
    check_create,
    check_update,
    config_value,
    container_of,
)
from pycm.twin.lanes import CREATIONS, Task
from pycm.twin.session import CONTAINER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pycm.model.container import Container
    from pycm.ports import Containers
    from pycm.twin.features import Operations
    from pycm.twin.lanes import JobContext


FACTORY = "ContainerFactory"


def feature_id(container_id: str) -> str:
    return CONTAINER_PREFIX + container_id


def state_value(container: Container, status: Status | None = None) -> dict[str, Any]:
    """*status* replaces the container's own in the last message of a removed one."""
    state = container.state
    values = {
        "pid": state.pid,
        "error": state.error or (OOM_TEXT if state.oom_killed else ""),
        "exitCode": state.exit_code,
        "startedAt": state.started_at,
        "finishedAt": state.finished_at,
        "oomKilled": state.oom_killed,
        "health": state.health,
    }
    shown = state.status if status is None else status
    return {"status": shown.name, **{key: value for key, value in values.items() if value}}


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
    """One object for all containers, which differ in the feature id only."""

    definition = "com.bosch.iot.suite.edge.containers:Container:1.5.0"

    def __init__(self, policy: Policy | None = None, *, mask_env: bool = False) -> None:
        self._policy = policy or Policy()
        self._mask_env = mask_env

    def value_of(self, container: Container) -> dict[str, Any]:
        status = status_value(container, mask_env=self._mask_env)
        return {**self.value(), "properties": {"status": status}}

    def config_of(self, container: Container) -> dict[str, Any]:
        return config_value(container, mask_env=self._mask_env)

    def _start(self, feature: str, _: Any) -> Task:
        return _task(feature, lambda containers, one: containers.start(one))

    def _stop(self, feature: str, _: Any) -> Task:
        return _task(feature, lambda containers, one: containers.stop(one, None))

    def _stop_with_options(self, feature: str, argument: Any) -> Task:
        options = STOP_OPTIONS.read(Arguments(argument))
        return _task(feature, lambda containers, one: containers.stop(one, options))

    def _pause(self, feature: str, _: Any) -> Task:
        return _task(feature, lambda containers, one: containers.pause(one))

    def _resume(self, feature: str, _: Any) -> Task:
        return _task(feature, lambda containers, one: containers.unpause(one))

    def _rename(self, feature: str, argument: Any) -> Task:
        """An empty or absent name changes nothing."""
        if not isinstance(argument, (str, type(None))):
            raise InvalidInputError(f"the argument of rename must be a string, got {shorten(argument)}")
        if not argument:
            return Task(feature, _nothing)
        return _task(feature, lambda containers, one: containers.rename(one, argument))

    def _update(self, feature: str, argument: Any) -> Task:
        check_update(self._policy, argument)
        options = UPDATE_OPTIONS.read(Arguments(argument))
        return _task(feature, lambda containers, one: containers.update(one, options))

    def _remove(self, feature: str, argument: Any) -> Task:
        if not isinstance(argument, (bool, type(None))):
            raise InvalidInputError(f"the argument of remove must be true or false, got {shorten(argument)}")
        return _task(feature, lambda containers, one: containers.remove(one, force=bool(argument)))

    operations: ClassVar[Operations] = {
        "start": _start,
        "stop": _stop,
        "stopWithOptions": _stop_with_options,
        "pause": _pause,
        "resume": _resume,
        "rename": _rename,
        "update": _update,
        "remove": _remove,
    }


def _task(feature: str, call: Callable[[Containers, str], Awaitable[object]]) -> Task:
    """A job in the container's lane: one call of the container manager."""

    async def job(context: JobContext) -> None:
        await call(context.containers, feature.removeprefix(CONTAINER_PREFIX))

    return Task(feature, job)


async def _nothing(_: JobContext) -> None:
    pass


# ── the factory ──


class ContainerFactory(Feature):
    """It creates containers, and has no properties."""

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
