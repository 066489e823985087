# SPDX-License-Identifier: Apache-2.0
"""The three errors that the cloud can get as an answer (shared specification, mqtt-twin 2.2)."""

from __future__ import annotations

import enum
from typing import Any


class Kind(enum.Enum):
    """Ditto's error name and status."""

    INVALID = ("messages:parameter.invalid", 400)
    NOT_FOUND = ("messages:subject.notfound", 404)
    FAILED = ("messages:execution.failed", 500)

    @property
    def status(self) -> int:
        return self.value[1]


class Problem(Exception):  # noqa: N818  it is what the answer says, not a failure of ours
    """Raised by the handler of an operation; becomes the answer."""

    def __init__(self, kind: Kind, message: str, masked: str = "") -> None:
        """*masked*: the message without values of environment variables, if it has some."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.masked = masked or message

    def without_secrets(self) -> Problem:
        return Problem(self.kind, self.masked)

    def as_value(self) -> dict[str, Any]:
        name, status = self.kind.value
        return {"error": name, "status": status, "message": self.message}
