# SPDX-License-Identifier: Apache-2.0
"""The container manager for the core's jobs: faked containers that change at once, the model's own rules, and a vector's failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.errors import NotFoundError, OperationFailedError
from pycm.model.container import Container, StopOptions, UpdateOptions
from pycm.model.defaults import fill_defaults, fill_swap
from pycm.model.states import Operation, Status, check_allowed
from pycm.model.units import parse_signal
from pycm.model.validation import check_id, check_name, check_resources, check_restart_policy, validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vector_fakes import FakeContainers


class FakeManager:
    """As much of `ports.Containers` as jobs call. No method waits."""

    def __init__(self, containers: FakeContainers, given: Mapping[str, Any]) -> None:
        self._containers = containers
        self._errors: Mapping[str, str] = given.get("manager") or {}

    def _existing(self, container_id: str, operation: Operation | None = None) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"no such container with id = {container_id} exists")
        if operation is not None:
            check_allowed(operation, container)
        return container

    async def create(self, container: Container) -> Container:
        container = fill_swap(fill_defaults(container))
        check_id(container.id)
        validate(container)
        if error := self._errors.get("create_error"):
            raise OperationFailedError(error)
        self._containers.add_now(container)
        return container

    async def start(self, container_id: str) -> None:
        self._existing(container_id, Operation.START)
        if error := self._errors.get("start_error"):
            self._containers.fail_now(container_id, error)
            raise OperationFailedError(error)
        self._containers.run_now(container_id)

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        options = options or StopOptions()
        if options.timeout < 0:
            raise OperationFailedError(f"the timeout = {options.timeout} shouldn't be negative")
        parse_signal(options.signal)
        self._existing(container_id, Operation.STOP)
        self._containers.stop_now(container_id)

    async def pause(self, container_id: str) -> None:
        self._existing(container_id, Operation.PAUSE)
        self._containers.freeze_now(container_id, Status.PAUSED)

    async def unpause(self, container_id: str) -> None:
        self._existing(container_id, Operation.UNPAUSE)
        self._containers.freeze_now(container_id, Status.RUNNING)

    async def rename(self, container_id: str, name: str) -> None:
        container = self._existing(container_id)
        check_name(name)
        if name != container.name:
            self._containers.rename_now(container_id, name)

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        self._existing(container_id)
        if options.restart_policy is not None:
            check_restart_policy(options.restart_policy)
        check_resources(options.resources)
        self._containers.update_now(container_id, options)

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        self._existing(container_id, Operation.FORCE_REMOVE if force else Operation.REMOVE)
        self._containers.remove_now(container_id)
