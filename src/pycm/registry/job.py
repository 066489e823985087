# SPDX-License-Identifier: Apache-2.0
"""What agent and worker say to each other: a job on one line, then lines of news, all JSON. Pure.

Neither side trusts the other's lines to be whole: a worker may be killed in the middle of one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from pycm.ports import PullStep
from pycm.registry.access import Access

#: Longest line either side reads, and the most lines that a worker may send.
LINE_LIMIT, LINES_LIMIT = 64 << 10, 200_000
_ERRORS = {
    error.__name__: error
    for error in (ConflictError, InvalidInputError, NotFoundError, OperationFailedError, UnavailableError)
}


class NoRoomError(OperationFailedError):
    """There is no room for an image; `missing`: bytes by which."""

    def __init__(self, text: str, missing: int) -> None:
        super().__init__(text)
        self.missing = missing


@dataclass(frozen=True)
class Job:
    """reference: what to pull. preload: directory of archives and layouts to import, where there is no reference.

    machine: as uname -m says it, "" for this one. reserve: bytes of free space that stay free.
    """

    address: str
    namespace: str
    snapshotter: str
    lease: str
    reference: str = ""
    preload: str = ""
    machine: str = ""
    reserve: int = 0
    access: Access = field(default_factory=Access)

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_job(line: bytes) -> Job:
    value = json.loads(line)
    return Job(**{**value, "access": Access(**value["access"])})


@dataclass(frozen=True)
class News:
    """step: a ports.PullStep's value. Of the last line: what came of the job.

    done, total: see ports.PullProgress. fetched: bytes that came over the network. images: what is in containerd now. failed: for
    each archive that could not be imported the reason.
    """

    step: str
    done: int = 0
    total: int = 0
    fetched: int = 0
    images: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def error_line(error: PycmError) -> bytes:
    known = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), "OperationFailedError")
    value: dict[str, Any] = {"error": known, "text": str(error)}
    if isinstance(error, NoRoomError):
        value["missing"] = error.missing
    return json.dumps(value).encode() + b"\n"


def parse_news(line: bytes) -> News | PycmError:
    """One line of a worker. ValueError, LookupError, TypeError, OverflowError or RecursionError if it is none."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004  the one error of a line that is none
    if "error" not in value:
        done, total, fetched = (int(value.get(name, 0)) for name in ("done", "total", "fetched"))
        images, failed = (tuple(map(str, value.get(name, ()))) for name in ("images", "failed"))
        return News(PullStep(value["step"]).value, done, total, fetched, images, failed)
    text = str(value.get("text"))
    if "missing" in value:
        return NoRoomError(text, int(value["missing"]))
    return _ERRORS.get(str(value["error"]), OperationFailedError)(text)
