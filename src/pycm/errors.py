# SPDX-License-Identifier: Apache-2.0
"""The one family of errors: what happened, to what, why, and what to do.

Every error that may reach a user derives from PycmError; its text is one line and needs no traceback. Fronts turn the class into
their own code (gRPC status, Ditto error, exit code) and the text into their message. Texts that clients match on are fixed in the
place that raises them.
"""

from __future__ import annotations


class PycmError(Exception):
    """Base of all expected failures. Never raised itself.

    `masked`: the text for those who must not see values of environment variables (logs, a masked twin); mostly the text itself.
    """

    def __init__(self, text: str = "", *, masked: str = "") -> None:
        super().__init__(text)
        self.masked = masked or text


class InvalidInputError(PycmError):
    """Somebody sent or wrote something wrong: the text names field, value and reason."""


class NotFoundError(PycmError):
    """A named container, image or file is not there."""


class ConflictError(PycmError):
    """The object exists already, or its state does not allow the operation."""


class BusyError(ConflictError):
    """As much of its kind is under way as may be: when one of them has ended, the same call may work."""


class OperationFailedError(PycmError):
    """The operation was allowed and tried, and did not succeed."""


class RefusedError(OperationFailedError):
    """A peer refuses this request, and only this one. `retry_after`: seconds until it may be tried again."""

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class UnavailableError(PycmError):
    """A peer (containerd, the broker, the agent) cannot be reached now; the same call may work later."""


class ConfigError(PycmError):
    """A part of the configuration cannot be used. Which parts end the agent: docs/configuration.md."""


def shorten(value: object, limit: int = 80) -> str:
    """A value as it may stand in a message: its repr, at most *limit* characters, control characters escaped."""
    text = ascii(value) if isinstance(value, bytes) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
