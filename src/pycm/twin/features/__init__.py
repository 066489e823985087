# SPDX-License-Identifier: Apache-2.0
"""The base of the twin's features, and the reader of operation arguments.

A new operation is one method and its entry in the feature's `operations`. The method receives the feature id and the
argument as sent. It returns a Reaction (answered at once) or a Task (answered when the job ends). It raises Problem, or
InvalidInputError for an argument that cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pycm.errors import InvalidInputError, shorten
from pycm.twin.envelope import Kind, Problem, members
from pycm.twin.lanes import Task

if TYPE_CHECKING:
    from pycm.twin.outbox import Decision

_INT64 = 1 << 63
#: Entries of a list, and characters of a text: a signed link has some thousand.
MAX_ENTRIES, MAX_TEXT = 4096, 16 * 1024


class Reaction(NamedTuple):
    """`value` None: the answer is 204 without a value. `task` begins after the answer."""

    value: Any = None
    decisions: tuple[Decision, ...] = ()
    task: Task | None = None


Operations = Mapping[str, Callable[[Any, str, Any], Reaction | Task]]


class Feature:
    """A feature with its definition, its operations by name, and its value in the twin."""

    definition: ClassVar[str]
    operations: ClassVar[Operations]
    unsupported: ClassVar[str] = "unsupported operation {operation}"  # compat
    #: Operations whose second copy must not run: those that create containers.
    once: ClassVar[frozenset[str]] = frozenset()

    def value(self) -> dict[str, Any]:
        """The whole feature, as it is published at its registration."""
        return {"definition": [self.definition]}

    def run(self, feature_id: str, operation: str, argument: Any) -> Reaction | Task:
        """Raises Problem."""
        handle = self.operations.get(operation)
        if handle is None:
            raise Problem(Kind.NOT_FOUND, self.unsupported.replace("{operation}", operation))
        try:
            return handle(self, feature_id, argument)
        except InvalidInputError as error:
            raise Problem(Kind.INVALID, str(error), error.masked) from None


class Arguments:
    """The members of one object, read as Go's decoder reads them: names in any case, null for absent, unknown members
    ignored.

    `where` is the object's path in messages. A value of the wrong type is an InvalidInputError that names path, value
    and expected type; so is null in a list of objects, which ended the original.
    """

    def __init__(self, value: Any, where: str = "argument") -> None:
        if value is not None and not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        self.where = where
        self._found = {name: item for name, item in members(value).items() if item is not None}

    def _path(self, name: str) -> str:
        return name if self.where == "argument" else f"{self.where}.{name}"

    def _get(self, name: str, kind: type, expected: str, absent: Any) -> Any:
        value = self._found.get(name.lower(), absent)
        if not isinstance(value, kind):
            raise _wrong(self._path(name), value, expected)
        return value

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._found

    def text(self, name: str, longest: int = MAX_TEXT) -> str:
        value = str(self._get(name, str, "a string", ""))
        if len(value) > longest:
            text = f"{self._path(name)}: {shorten(value)} has {len(value)} characters; at most {longest} are allowed"
            raise InvalidInputError(text)
        return value

    def _list(self, name: str, expected: str, most: int = MAX_ENTRIES) -> list[Any]:
        items: list[Any] = self._get(name, list, expected, [])
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
            raise _wrong(self._path(name), value, "a time that fits into a duration")
        return int(value)

    def texts(self, name: str, most: int = MAX_ENTRIES) -> tuple[str, ...]:
        """null among them counts as empty."""
        items = self._list(name, "a list of strings", most)
        for index, item in enumerate(items):
            if not isinstance(item, (str, type(None))):
                raise _wrong(f"{self._path(name)}[{index}]", item, "a string")
        return tuple(item or "" for item in items)

    def child(self, name: str) -> Arguments | None:
        """None if it is absent."""
        value = self._found.get(name.lower())
        return None if value is None else Arguments(value, self._path(name))

    def children(self, name: str, most: int = MAX_ENTRIES, *, null: bool = False) -> list[Arguments]:
        """*null*: null among them counts as empty."""
        items = self._list(name, "a list of objects", most)
        for index, item in enumerate(items):
            if item is None and not null:
                raise InvalidInputError(f"{self._path(name)}[{index}]: null is not an object")
        return [Arguments(item, f"{self._path(name)}[{index}]") for index, item in enumerate(items)]


#: What may hold passwords, which nobody is shown, and what may hold other secrets.
_PASSWORDS, _SECRETS = ("decryption", "decryption.keys"), ("config.env",)


def _wrong(path: str, value: Any, expected: str) -> InvalidInputError:
    name = path.partition("[")[0]
    masked = f"{path}: *** is not {expected}"
    if name.endswith(_PASSWORDS):
        return InvalidInputError(masked)
    text = f"{path}: {shorten(value)} is not {expected}"
    return InvalidInputError(text, masked=masked if name.endswith(_SECRETS) else "")
