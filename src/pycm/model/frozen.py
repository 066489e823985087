# SPDX-License-Identifier: Apache-2.0
"""Frozen data without generated code.

A dataclass compiles its methods at import, which for the records of a container took a tenth of the agent's start. A
Frozen class shares three methods with all others: the class holds the defaults, an instance the values that were given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import dataclass_transform
else:  # for type checkers only

    def dataclass_transform(**_options: bool) -> Any:
        return lambda decorated: decorated


T = TypeVar("T", bound="Frozen")


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Frozen:
    """Base of classes whose annotated names are their fields, each with a default. A subclass passes `uncompared=`
    names to ignore.
    """

    if TYPE_CHECKING:
        NAMES: ClassVar[tuple[str, ...]]
        COMPARED: ClassVar[tuple[str, ...]]
    else:  # type checkers derive an __init__ from the fields
        NAMES = COMPARED = ()

        def __init__(self, **values: Any) -> None:
            if unknown := values.keys() - self.NAMES:
                raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
            self.__dict__.update(values)

    def __init_subclass__(cls, uncompared: Sequence[str] = ()) -> None:
        own = tuple(cls.__annotations__)
        cls.NAMES = (*cls.NAMES, *own)
        cls.COMPARED = (*cls.COMPARED, *(name for name in own if name not in uncompared))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.COMPARED)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.COMPARED))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: replace() makes another one")

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if name in self.COMPARED)
        return f"{type(self).__name__}({', '.join(shown)})"


def replace(frozen: T, **changes: Any) -> T:
    """A copy of *frozen* with other values."""
    return type(frozen)(**{**vars(frozen), **changes})
