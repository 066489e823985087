# SPDX-License-Identifier: Apache-2.0
"""The command line's client of the agent's JSON API: one request a connection, errors, time-outs and notices
(docs/api.md).
"""

from __future__ import annotations

import errno
import time

from pycm import errors
from pycm.cli.line import DEFAULT_HOST
from pycm.cli.wire import PROBE, Answer, AnswerError, ClosedError, Wire, encode_request, read_json
from pycm.errors import InvalidInputError, OperationFailedError, PycmError, UnavailableError, shorten

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pycm.cli.channel import Channel

#: Seconds between attempts to connect: first and longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
#: Seconds until a caller who waits for an answer is notified; each further notice takes twice as long.
STILL_WAITING = 30.0
#: Seconds for the agent to begin an exec or attach.
BEGIN = 60.0

NO_JSON = "it is Kanto's, or an older pycm: after an upgrade restart the agent (systemctl restart pycm)"
NO_TCP = "run it on the device, or forward the socket: ssh -L /tmp/pycm.sock:{} <device>, then --host /tmp/pycm.sock"
_RIGHTS = "run it as root or as a member of the socket's group"
_HINTS = {
    errno.ENOENT: "is the agent running?",
    errno.ECONNREFUSED: "is the agent running? nobody listens on the socket",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}
#: Waiting does not help with these.
_HOPELESS = (errno.EACCES, errno.EPERM, errno.ENOTSOCK, errno.EPROTOTYPE, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL)  # fmt: skip


class TimeExpiredError(OperationFailedError):
    """The result did not come in time."""

    EXIT_CODE = 6


class NotStartedError(OperationFailedError):
    """The command of an exec could not be started. `exit_code`: 126 or 127, as a shell reports it."""

    def __init__(self, text: str, exit_code: int, *, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.exit_code = exit_code


_KINDS: dict[str, type[PycmError]] = {
    "invalid-input": InvalidInputError,
    "not-found": errors.NotFoundError,
    "conflict": errors.ConflictError,
    "unavailable": UnavailableError,
    "timeout": TimeExpiredError,
}


def parse_host(text: str) -> str:
    """Return the path of the socket: `text` is the path, unix:path or unix://path. Errors: InvalidInputError."""
    scheme, _, rest = text.partition(":")
    if scheme in ("tcp", "tcp4", "tcp6") and rest.startswith("//"):
        reason = f"--host: the command line needs the agent's unix socket, got {shorten(text)}"
        raise InvalidInputError(reason, hint=NO_TCP.format(DEFAULT_HOST))
    path = rest if scheme == "unix" else text
    if path.startswith("//"):
        path = "/" + path.lstrip("/")  # unix:///run/x and, as some write it, unix:////run/x
    if not path or "://" in path or "\0" in path:
        raise InvalidInputError(f"--host must be a path or unix://path, got {shorten(text)}")
    return path


class Client:
    """Calls of one agent. Connecting waits up to *timeout* seconds for the agent to answer.

    Errors of all calls: UnavailableError if it does not answer or the connection ends, TimeExpiredError, and the error
    of the problem that the agent reports. *waiting* is called with the seconds so far of a long call. *rpc*: texts
    begin as those of Kanto's client.
    """

    def __init__(
        self, host: str, *, timeout: float = 30.0, waiting: Callable[[float], None] | None = None, rpc: bool = False
    ) -> None:  # fmt: skip
        self._path = parse_host(host)
        self._timeout = timeout
        self._waiting = waiting
        self._rpc = rpc
        self._met = False  # an agent with the JSON API has answered

    def call(
        self, method: str, target: str, body: Any = None, *, deadline: float | None = None, patient: bool = False
    ) -> Any:  # fmt: skip
        """Return the JSON of the answer. *deadline*: seconds for all; None: as long as the agent lives. *patient*: no
        notices.
        """
        answer = Answer()
        for part in self._receive(encode_request(method, target, body), deadline, patient=patient):
            answer = part
        return self._parsed(answer.body) if answer.body else None

    def stream(self, method: str, target: str, body: Any = None, *, patient: bool = False) -> Iterator[Any]:
        """Yield the JSON lines of the answer as they come. Leaving the loop early, or Ctrl-C, cancels the call."""
        for answer in self._receive(encode_request(method, target, body), None, patient=patient):
            for line in answer.lines() if answer.status == 200 else ():
                value = self._parsed(line)
                if "problem" in value:
                    raise self.problem(value["problem"])
                yield value

    def upgrade(self, target: str, body: Any) -> Channel:
        """Begin a call with frames in both directions; return when the agent has begun it."""
        from pycm.cli.channel import Channel

        wire, answer, until = self._connect(), Answer(), time.monotonic() + BEGIN
        try:
            wire.send(encode_request("POST", target, body, upgrade=True))
            while answer.status != 101 and not answer.ended:
                answer.feed(wire.receive(until))
            if answer.status != 101:
                raise self.problem(self._parsed(answer.body))
            return Channel(self, wire, answer)
        except (TimeoutError, ClosedError, AnswerError) as error:
            wire.close()
            raise self.explain(error, BEGIN) from None
        except BaseException:
            wire.close()
            raise

    def _receive(self, request: bytes, deadline: float | None, *, patient: bool) -> Iterator[Answer]:
        """Send a request; yield its answer each time that more of it has come."""
        expires = None if deadline is None else time.monotonic() + deadline
        wire, answer = self._connect(), Answer()
        notice = _Notice(None if patient else self._waiting)
        try:
            wire.send(request)
            while not answer.ended:
                try:
                    answer.feed(wire.receive(notice.until(expires)))
                except TimeoutError:
                    notice.give(expires)
                else:
                    yield answer
                    notice.begin()
            if answer.status >= 400:
                raise self.problem(self._parsed(answer.body))
        except (TimeoutError, ClosedError, AnswerError) as error:
            raise self.explain(error, deadline or 0) from None
        finally:
            wire.close()

    # ── errors ──

    def _parsed(self, data: bytes | bytearray) -> Any:
        try:
            return read_json(data)
        except AnswerError as error:
            raise self.explain(error) from None

    def problem(self, problem: Any) -> PycmError:
        """Return the error for a problem (RFC 9457) that the agent reports."""
        found = problem if isinstance(problem, dict) else {"detail": "the agent failed without a reason"}
        code, text, hint = (str(found.get(name, "")) for name in ("code", "detail", "hint"))
        if code == "not-started":
            return NotStartedError(text, int(found.get("exit_code", 126)), hint=hint)
        if code in ("unknown-path", "unknown-method"):
            text, hint = "the agent does not know this call", "it is older than this command line"
        return self._failure(_KINDS.get(code, OperationFailedError), text, hint=hint)

    def explain(self, error: Exception, seconds: float = 0) -> PycmError:
        """Return what the end of a connection means for the caller. *seconds*: what TimeoutError waited for."""
        if isinstance(error, TimeoutError):
            return self._failure(TimeExpiredError, f"no answer within {seconds:g} s", "DeadlineExceeded")
        text = str(error) if isinstance(error, ClosedError) else f"the agent sent a malformed answer: {error}"
        return self._failure(UnavailableError, text, "Unavailable")

    def _failure(
        self, kind: type[PycmError], text: str, code: str = "Unknown", *, hint: str = ""
    ) -> PycmError:
        return kind(f"rpc error: code = {code} desc = {text}" if self._rpc else text, hint=hint)  # compat

    # ── connecting ──

    def _connect(self) -> Wire:
        """Return a connection; the first one has shown that an agent with the JSON API answers. Error:
        UnavailableError.
        """
        began, pause = time.monotonic(), FIRST_PAUSE
        until = began + self._timeout
        while True:
            try:
                return self._attempt(until)
            except (OSError, ClosedError) as error:
                now = time.monotonic()
                if until - now <= pause or getattr(error, "errno", 0) in _HOPELESS:
                    raise self._unreachable(error, now - began) from None
            except AnswerError as error:
                text = f"the agent at {self._path} has no JSON API: {error}"
                raise UnavailableError(text, hint=NO_JSON) from None
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _attempt(self, until: float) -> Wire:
        until = max(until, time.monotonic() + 0.001)
        wire, answer = Wire(self._path, until - time.monotonic()), Answer()
        try:
            if not self._met:
                wire.send(PROBE)
            while not (self._met or answer.ended):
                answer.feed(wire.receive(until))
        except BaseException:
            wire.close()
            raise
        self._met = True
        return wire

    def _unreachable(self, error: Exception, waited: float) -> PycmError:
        number = getattr(error, "errno", None) or 0
        if isinstance(error, TimeoutError) or number == errno.EAGAIN:
            why = "it does not answer"
        elif isinstance(error, ClosedError):
            why = "it closes the connection at once"
        else:
            why = str(getattr(error, "strerror", error))
        text = f"cannot connect to the agent at {self._path}: {why} (waited {waited:.0f} s)"
        return UnavailableError(text, hint=_HINTS.get(number, ""))


class _Notice:
    """When to notify the caller that it still waits."""

    def __init__(self, tell: Callable[[float], None] | None) -> None:
        self._tell = tell
        self.begin()

    def begin(self) -> None:
        self._after = STILL_WAITING
        self._due = time.monotonic() + self._after

    def until(self, expires: float | None) -> float | None:
        """Return the end of the wait: the next notice or *expires*, whichever is earlier."""
        if self._tell is None:
            return expires
        return self._due if expires is None else min(self._due, expires)

    def give(self, expires: float | None) -> None:
        """Give the notice that is due. Error: TimeoutError if the call has expired instead."""
        if self._tell is None or (expires is not None and time.monotonic() >= expires):
            raise TimeoutError
        self._tell(self._after)
        self._due += self._after
        self._after *= 2
