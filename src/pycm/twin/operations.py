# SPDX-License-Identifier: Apache-2.0
"""What the core asks to be carried out on the containers; the service does it, and what came of it goes back to the core.

Each operation is data: the core decides, the outside acts. The result is a Container for Create, bytes for Download, else None; a
failure is a `Failed` with the text for the one who asked.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycm.model.container import Container, StopOptions, UpdateOptions


#: What the original says where its code panicked; its own tests look for it.
INTERNAL = "internal runtime error"


class Failed(Exception):  # noqa: N818  the outcome of an operation, raised inside the steps that asked for it
    """The operation was tried, or refused, and this is why. `masked`: without values of environment variables."""

    def __init__(self, message: str, masked: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.masked = masked or message


@dataclass(frozen=True)
class Create:
    container: Container


@dataclass(frozen=True)
class Start:
    container_id: str


@dataclass(frozen=True)
class Stop:
    container_id: str
    options: StopOptions | None = None


@dataclass(frozen=True)
class Pause:
    container_id: str


@dataclass(frozen=True)
class Resume:
    container_id: str


@dataclass(frozen=True)
class Rename:
    container_id: str
    name: str


@dataclass(frozen=True)
class Update:
    container_id: str
    options: UpdateOptions


@dataclass(frozen=True)
class Remove:
    container_id: str
    force: bool = False


@dataclass(frozen=True)
class Download:
    """Read what *url* gives, at most `limit` bytes."""

    url: str
    limit: int


Operation = Create | Start | Stop | Pause | Resume | Rename | Update | Remove | Download


@dataclass(frozen=True)
class Property:
    """A property of a feature has this value from now on."""

    path: str
    value: Any


#: What a job does: it yields operations, whose results come back or are raised as Failed, and properties that changed. What it returns
#: is the value of the answer.
Steps = Generator[Operation | Property, Any, Any]
