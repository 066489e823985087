# SPDX-License-Identifier: Apache-2.0
"""What every feature of the twin is: an id, a definition, properties, and a table of operations.

A new operation is one entry in its feature's table: name to handler. A handler is given the feature id and the argument as it came. It
returns a Reaction, which is answered at once, or a Task, which is answered at its end; or it raises Problem, or InvalidInputError for
an argument that cannot be read.


Arguments of operations, read as Go's decoder reads them: member names in any case, null for absent, unknown members ignored.

A value of the wrong type is an InvalidInputError that names the path, the value and what is wanted; so is null in a list of objects,
which ended the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pycm.errors import InvalidInputError, shorten
from pycm.twin.envelope import ABSENT, Kind, Problem, members

if TYPE_CHECKING:
    from pycm.twin.lanes import Task
    from pycm.twin.outbox import Decision


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


_INT64 = 1 << 63
#: Entries of a list, and bytes of a single text: a link that is signed has some thousand.
MAX_ENTRIES, MAX_TEXT = 4096, 16 * 1024


class Arguments:
    """The members of one object; `where` is its path in messages."""

    def __init__(self, value: Any, where: str = "argument") -> None:
        if value is not None and not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        self.where = where
        self._found = {name: item for name, item in members(value).items() if item is not None}

    def _path(self, name: str) -> str:
        return name if self.where == "argument" else f"{self.where}.{name}"

    def _get(self, name: str, kind: type, wanted: str, absent: Any) -> Any:
        value = self._found.get(name.lower(), absent)
        if not isinstance(value, kind):
            raise _wrong(self._path(name), value, wanted)
        return value

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._found

    def text(self, name: str, longest: int = MAX_TEXT) -> str:
        value = str(self._get(name, str, "a string", ""))
        if len(value) > longest:
            raise InvalidInputError(
                f"{self._path(name)}: {shorten(value)} has {len(value)} characters; at most {longest} are allowed"
            )
        return value

    def _list(self, name: str, wanted: str, most: int = MAX_ENTRIES) -> list[Any]:
        items: list[Any] = self._get(name, list, wanted, [])
        if len(items) > most:
            raise InvalidInputError(
                f"{self._path(name)} has {len(items)} entries; at most {most} are allowed"
            )
        return items

    def flag(self, name: str) -> bool:
        return bool(self._get(name, bool, "true or false", False))

    def integer(self, name: str, low: int = -_INT64, high: int = _INT64 - 1) -> int:
        value = self._found.get(name.lower(), 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(self._path(name), value, "a whole number")
        if not low <= value <= high:
            raise _wrong(self._path(name), value, f"between {low} and {high}")
        return int(value)

    def seconds(self, name: str) -> int:
        """A number of seconds without its fraction."""
        value = self._found.get(name.lower(), 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong(self._path(name), value, "a number")
        if not math.isfinite(value) or abs(value) * 1_000_000_000 >= _INT64:
            raise _wrong(self._path(name), value, "a time that a duration can hold")
        return int(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """null among them counts as empty."""
        items = self._list(name, "a list of strings")
        for index, item in enumerate(items):
            if not isinstance(item, (str, type(None))):
                raise _wrong(f"{self._path(name)}[{index}]", item, "a string")
        return tuple(item or "" for item in items)

    def child(self, name: str) -> Arguments | None:
        """None if it is not given."""
        value = self._found.get(name.lower())
        return None if value is None else Arguments(value, self._path(name))

    def children(self, name: str, most: int = MAX_ENTRIES) -> list[Arguments]:
        items = self._list(name, "a list of objects", most)
        for index, item in enumerate(items):
            if item is None:
                raise InvalidInputError(f"{self._path(name)}[{index}]: null is not an object")
        return [Arguments(item, f"{self._path(name)}[{index}]") for index, item in enumerate(items)]


#: What may hold passwords, which nobody is shown, and what may hold other secrets.
_PASSWORDS, _SECRETS = ("decryption", "decryption.keys"), ("config.env",)


def _wrong(path: str, value: Any, wanted: str) -> InvalidInputError:
    name = path.partition("[")[0]
    masked = f"{path}: *** is not {wanted}"
    if name.endswith(_PASSWORDS):
        return InvalidInputError(masked)
    text = f"{path}: {shorten(value)} is not {wanted}"
    return InvalidInputError(text, masked=masked if name.endswith(_SECRETS) else "")
