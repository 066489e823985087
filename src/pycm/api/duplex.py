# SPDX-License-Identifier: Apache-2.0
"""A call with messages in both directions, for a caller that waits for several things at once (poll on `fileno`).

What is written is sent as far as the agent takes it. `hungry` tells when more may be written: a caller that reads on all the same
would gather in memory what the container does not read.
"""

from __future__ import annotations

import time

from pycm.api.client import ClosedError
from pycm.api.http2 import Http2Error
from pycm.api.methods import PREFIX_SIZE

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from pycm.api.call import Call
    from pycm.api.client import Wire

#: Seconds for the agent to take a call.
BEGIN = 60.0
#: Bytes that may wait to be taken by the agent before `hungry` is False.
ENOUGH = 64 * 1024


class Duplex:
    """Errors of `take` and `begin`: CallError. Leave it by `close`, which cancels the call if it has not ended."""

    def __init__(self, wire: Wire, call: Call) -> None:
        self._wire = wire
        self._call = call
        self._unsent = bytearray()
        self._ending = self._ended = False

    def fileno(self) -> int:
        return self._wire.fileno()

    @property
    def hungry(self) -> bool:
        return len(self._unsent) < ENOUGH and not self._ending

    @property
    def metadata(self) -> dict[str, str]:
        return self._call.metadata

    def write(self, message: bytes) -> None:
        """Send *message*, or keep it until the agent takes it."""
        self._unsent += b"\0" + len(message).to_bytes(PREFIX_SIZE - 1, "big") + message
        self._send()

    def end(self) -> None:
        """Nothing more will be written."""
        self._ending = True
        self._send()

    def _send(self) -> None:
        if self._call.done:
            return
        try:
            if self._unsent:
                self._unsent = bytearray(self._wire.send(memoryview(bytes(self._unsent)), None, end=False))
            if self._ending and not self._unsent and not self._ended:
                self._ended = True
                self._wire.end()
        except ClosedError as error:
            self._call.lost(error.lost)

    def begin(self) -> None:
        """Wait until the agent has taken the call, for at most BEGIN seconds."""
        until = time.monotonic() + BEGIN
        while not self._call.begun and not self._call.done:
            self.receive(until)
        if self._call.failed:
            self._call.check()

    def take(self) -> list[bytes]:
        """The messages that have come; the errors of the call after the last one."""
        messages = list(self._call.messages())
        if self._call.done and not messages:
            self._call.check()
        return messages

    @property
    def done(self) -> bool:
        """No more will come than `take` still has."""
        return self._call.done

    @property
    def quiet(self) -> float:
        """Seconds until `check` is due, if nothing comes."""
        return self._wire.quiet

    def check(self) -> None:
        """Find out whether the agent is still there."""
        try:
            self._wire.check()
        except ClosedError as error:
            self._call.lost(error.lost)

    def receive(self, until: float | None = None) -> None:
        """Wait for something from the agent; at *until* (monotonic) the call has failed."""
        try:
            self._wire.receive(until)
            self._send()
        except TimeoutError:
            self._call.expire(BEGIN)
        except ClosedError as error:
            self._call.lost(error.lost)
        except Http2Error as error:
            self._wire.broken = True
            self._call.lost(f"the answer is not proper HTTP/2: {error}")

    def close(self) -> None:
        self._wire.leave(ended=self._call.ended)
