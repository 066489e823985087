# SPDX-License-Identifier: Apache-2.0
"""The errors of pycm, in one family.

Every error that may reach a user derives from PycmError. Its text is one line that says what failed, what it got and
what it expected. Fronts map the class to their own code (gRPC status, Ditto error, exit code). Texts that clients match
on are fixed where they are raised.
"""

from __future__ import annotations


class PycmError(Exception):
    """Base class of all expected failures; only its subclasses are raised.

    `hint`: a sentence with the remedy, which is not part of the text. The command line prints it on a line of its own,
    logs append it in brackets, and messages of Kanto's protocols do not carry it. `masked`: the text for readers who
    must not see the values of environment variables (logs, a masked twin).
    """

    def __init__(self, text: str = "", *, hint: str = "", masked: str = "") -> None:
        super().__init__(text)
        self.hint = hint
        self.masked = masked or text

    @property
    def printed(self) -> str:
        """The text for a terminal, with the hint on a line of its own."""
        return f"{self}\nhint: {self.hint}" if self.hint else str(self)

    @property
    def detail(self) -> str:
        """The text for a log line: masked, with the hint in brackets."""
        return f"{self.masked} ({self.hint})" if self.hint else self.masked


class InvalidInputError(PycmError):
    """A user, client or file sent something invalid.

    `field`, `value` and `reason` are the parts of the text as far as they are known, for clients that read them
    separately. A value is shortened, and "" or "***" where it is secret.
    """

    def __init__(
        self,
        text: str,
        *,
        field: str = "",
        value: str = "",
        reason: str = "",
        hint: str = "",
        masked: str = "",
    ) -> None:
        super().__init__(text, hint=hint, masked=masked)
        self.field = field
        self.value = value
        self.reason = reason

    @classmethod
    def of(
        cls, field: str, value: str, reason: str, *, hint: str = "", masked: str = ""
    ) -> InvalidInputError:
        """Make the text out of its parts: "<field>: <value> <reason>", where the reason begins with a verb."""
        text = f"{field}: {value} {reason}"
        return cls(text, field=field, value=value, reason=reason, hint=hint, masked=masked)


class NotFoundError(PycmError):
    """A named container, image or file does not exist."""


class ConflictError(PycmError):
    """The object exists already, or its state does not allow the operation."""


class BusyError(ConflictError):
    """Too many operations of this kind are running; the same call may work when one of them has ended."""


class OperationFailedError(PycmError):
    """The operation was allowed and attempted, and failed."""


class RefusedError(OperationFailedError):
    """A peer refuses this request, and only this one. `retry_after`: seconds until a retry is allowed."""

    def __init__(self, text: str, retry_after: float, *, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.retry_after = retry_after


class UnavailableError(PycmError):
    """A peer (containerd, the broker, the agent) is unreachable; the same call may work later."""


class ConfigError(PycmError):
    """A part of the configuration is invalid. docs/configuration.md says which parts end the agent."""


def shorten(value: object, limit: int = 80) -> str:
    """Return the repr of a value for a message: at most *limit* characters, control characters escaped.

    A long one is cut in the middle: the end of a path names the file.
    """
    text = ascii(value) if isinstance(value, bytes) else repr(value)
    tail = limit // 2
    return text if len(text) <= limit else f"{text[: limit - tail - 1]}…{text[-tail:]}"
