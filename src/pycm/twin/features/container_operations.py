# SPDX-License-Identifier: Apache-2.0
"""The operations of `Container:<id>` (shared specification, mqtt-twin 4.1): all are answered 204 when the manager has done them.

Those of one container follow each other in the order in which they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, shorten
from pycm.twin.envelope import ABSENT
from pycm.twin.features.arguments import Arguments
from pycm.twin.features.container_config import stop_options_of, update_options_of
from pycm.twin.jobs import Task
from pycm.twin.names import CONTAINER_PREFIX
from pycm.twin.operations import Operation, Pause, Remove, Rename, Resume, Start, Steps, Stop, Update
from pycm.twin.policy import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pycm.config.types import Policy
    from pycm.twin.features.base import Handler


def _rename(container_id: str, argument: Any) -> Rename | None:
    """No name is no change."""
    if not isinstance(argument, (str, type(None))):
        raise InvalidInputError(f"the argument of rename must be a string, it is {shorten(argument)}")
    return Rename(container_id, argument) if argument else None


def _remove(container_id: str, argument: Any) -> Remove:
    if not isinstance(argument, (bool, type(None))):
        raise InvalidInputError(f"the argument of remove must be true or false, it is {shorten(argument)}")
    return Remove(container_id, force=bool(argument))


#: Name to what makes an operation of the container's id and the argument; None: there is nothing to do.
_MAKERS: Mapping[str, Callable[[str, Any], Operation | None]] = {
    "start": lambda container_id, _: Start(container_id),
    "stop": lambda container_id, _: Stop(container_id),
    "stopWithOptions": lambda container_id, given: Stop(container_id, stop_options_of(Arguments(given))),
    "pause": lambda container_id, _: Pause(container_id),
    "resume": lambda container_id, _: Resume(container_id),
    "rename": _rename,
    "remove": _remove,
    "update": lambda container_id, given: Update(container_id, update_options_of(Arguments(given))),
}


def _handler(make: Callable[[str, Any], Operation | None]) -> Handler:
    def handle(feature_id: str, argument: Any) -> Task:
        operation = make(feature_id.removeprefix(CONTAINER_PREFIX), argument)
        return Task(feature_id, _steps(operation))

    return handle


def _steps(operation: Operation | None) -> Steps:
    if operation is not None:
        yield operation
    return ABSENT


def operations_under(policy: Policy) -> Mapping[str, Handler]:
    """The operations by name. An update that asks for what *policy* denies is refused, though it would change nothing of the kind."""
    handlers = {name: _handler(make) for name, make in _MAKERS.items()}
    return {**handlers, "update": guarded(policy, handlers["update"])}
