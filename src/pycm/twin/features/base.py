# SPDX-License-Identifier: Apache-2.0
"""What every feature of the twin is: an id, a definition, properties, and a table of operations.

A new operation is one entry in its feature's table: name to handler. A handler is given the feature id and the argument as it came. It
returns a Reaction, which is answered at once, or a Task, which is answered at its end; or it raises Problem, or InvalidInputError for
an argument that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pycm.errors import InvalidInputError
from pycm.twin.envelope import ABSENT
from pycm.twin.problems import Kind, Problem

if TYPE_CHECKING:
    from pycm.twin.actions import Decision
    from pycm.twin.jobs import Task


@dataclass(frozen=True)
class Reaction:
    """`value` absent: the answer is 204 without a value. `task`: what begins after the answer."""

    value: Any = ABSENT
    decisions: tuple[Decision, ...] = ()
    task: Task | None = None


Handler = Callable[[str, Any], "Reaction | Task"]


class Feature:
    """Base of the features; `operations` is empty until a feature has some."""

    definition: ClassVar[str]
    unsupported: ClassVar[str] = "unsupported operation {operation}"
    #: Operations of which a second copy of the same command must not run: those that make containers.
    once: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self.operations: Mapping[str, Handler] = {}

    def value(self) -> dict[str, Any]:
        """The whole feature, as it is published when it is registered."""
        return {"definition": [self.definition]}

    def run(self, feature_id: str, operation: str, argument: Any) -> Reaction | Task:
        handler = self.operations.get(operation)
        if handler is None:
            raise Problem(Kind.NOT_FOUND, self.unsupported.replace("{operation}", operation))
        try:
            return handler(feature_id, argument)
        except InvalidInputError as error:
            raise Problem(Kind.INVALID, str(error), error.masked) from None
