# SPDX-License-Identifier: Apache-2.0
"""The core's operations on the faked containers, at once: the model's own rules, and the failures that a vector gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vector_fakes import FakeDownloads

from pycm.errors import NotFoundError, OperationFailedError, PycmError
from pycm.model.container import Container, StopOptions, UpdateOptions
from pycm.model.defaults import fill_defaults, fill_swap
from pycm.model.states import Operation as Kind
from pycm.model.states import Status, check_allowed
from pycm.model.units import parse_signal
from pycm.model.validation import check_id, check_name, check_resources, check_restart_policy, validate
from pycm.twin import lanes as ops

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vector_fakes import FakeContainers


def carry_out(operation: ops.Operation, containers: FakeContainers, given: Mapping[str, Any]) -> Any:
    """The operation's result or Failed, as `pycm.twin.runner` gives it."""
    try:
        return _DOERS[type(operation)](operation, containers, given)
    except PycmError as error:
        return ops.Failed(str(error), error.masked)


def _existing(containers: FakeContainers, container_id: str, kind: Kind | None = None) -> Container:
    container = containers.get(container_id)
    if container is None:
        raise NotFoundError(f"no such container with id = {container_id} exists")
    if kind is not None:
        check_allowed(kind, container)
    return container


def _create(operation: ops.Create, containers: FakeContainers, given: Mapping[str, Any]) -> Container:
    container = fill_swap(fill_defaults(operation.container))
    check_id(container.id)
    validate(container)
    if error := (given.get("manager") or {}).get("create_error"):
        raise OperationFailedError(error)
    containers.add_now(container)
    return container


def _start(operation: ops.Start, containers: FakeContainers, given: Mapping[str, Any]) -> None:
    _existing(containers, operation.container_id, Kind.START)
    if error := (given.get("manager") or {}).get("start_error"):
        containers.fail_now(operation.container_id, error)
        raise OperationFailedError(error)
    containers.run_now(operation.container_id)


def _stop(operation: ops.Stop, containers: FakeContainers, _: Mapping[str, Any]) -> None:
    options = operation.options or StopOptions()
    if options.timeout < 0:
        raise OperationFailedError(f"the timeout = {options.timeout} shouldn't be negative")
    parse_signal(options.signal)
    _existing(containers, operation.container_id, Kind.STOP)
    containers.stop_now(operation.container_id)


def _pause(operation: ops.Pause, containers: FakeContainers, _: Mapping[str, Any]) -> None:
    _existing(containers, operation.container_id, Kind.PAUSE)
    containers.freeze_now(operation.container_id, Status.PAUSED)


def _resume(operation: ops.Resume, containers: FakeContainers, _: Mapping[str, Any]) -> None:
    _existing(containers, operation.container_id, Kind.UNPAUSE)
    containers.freeze_now(operation.container_id, Status.RUNNING)


def _rename(operation: ops.Rename, containers: FakeContainers, _: Mapping[str, Any]) -> None:
    container = _existing(containers, operation.container_id)
    check_name(operation.name)
    if operation.name != container.name:
        containers.rename_now(operation.container_id, operation.name)


def _update(operation: ops.Update, containers: FakeContainers, _: Mapping[str, Any]) -> None:
    options: UpdateOptions = operation.options
    _existing(containers, operation.container_id)
    if options.restart_policy is not None:
        check_restart_policy(options.restart_policy)
    check_resources(options.resources)
    containers.update_now(operation.container_id, options)


def _remove(operation: ops.Remove, containers: FakeContainers, _: Mapping[str, Any]) -> None:
    kind = Kind.FORCE_REMOVE if operation.force else Kind.REMOVE
    _existing(containers, operation.container_id, kind)
    containers.remove_now(operation.container_id)


def _download(operation: ops.Download, _: FakeContainers, given: Mapping[str, Any]) -> bytes:
    return FakeDownloads(given.get("http") or {}).read(operation.url)


_DOERS: Mapping[type, Any] = {
    ops.Create: _create,
    ops.Start: _start,
    ops.Stop: _stop,
    ops.Pause: _pause,
    ops.Resume: _resume,
    ops.Rename: _rename,
    ops.Update: _update,
    ops.Remove: _remove,
    ops.Download: _download,
}
