# SPDX-License-Identifier: Apache-2.0
"""The upgraded connection of exec and attach: frames in both directions (docs/api.md)."""

from __future__ import annotations

from pycm.api.protocol import EXIT, PROBLEM, STDIN, FrameError, Frames, frame
from pycm.cli.wire import AnswerError, ClosedError, read_json

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from typing import Any

    from pycm.cli.client import Client
    from pycm.cli.wire import Answer, Wire
    from pycm.errors import PycmError

#: Bytes that may wait for the agent to read them before `hungry` is False.
ENOUGH = 64 * 1024


class Channel:
    """For a caller that polls several descriptors, `fileno` among them. Leave it by `close`.

    `exit`: the content of the exit frame. `unsent`: what the agent did not take yet; `flush` sends it once `fileno` is
    writable.
    """

    def __init__(self, client: Client, wire: Wire, answer: Answer) -> None:
        self._client = client
        self._wire = wire
        self._answer = answer
        self._frames = Frames()
        self._output: list[tuple[int, bytes]] = []
        self._failure: PycmError | None = None
        self._input_ended = False
        self.unsent = bytearray()
        self.exit: dict[str, Any] | None = None
        self._read_frames()

    def fileno(self) -> int:
        return self._wire.fileno()

    @property
    def done(self) -> bool:
        """Whether no more output will come than `take` still has."""
        return self.exit is not None or self._failure is not None

    @property
    def hungry(self) -> bool:
        """Whether more may be written: otherwise it would gather in memory what the container does not read."""
        return len(self.unsent) < ENOUGH and not self._input_ended

    @property
    def quiet(self) -> float:
        """Seconds until `check` is due, if nothing comes."""
        return self._wire.quiet

    def write(self, kind: int, payload: bytes = b"") -> None:
        """Send a frame, or keep what the agent does not take yet. An empty STDIN frame ends the input."""
        self._input_ended = self._input_ended or (kind == STDIN and not payload)
        self.unsent += frame(kind, payload)
        self.flush()

    def flush(self) -> None:
        if self.unsent:
            self._wire.send_some(self.unsent)

    def receive(self) -> None:
        """Read what has come; `fileno` is readable."""
        try:
            self._answer.feed(self._wire.receive(None))
        except (ClosedError, AnswerError) as error:
            self._fail(self._client.explain(error))
        self._read_frames()

    def check(self) -> None:
        """Find out whether the agent still lives."""
        try:
            self._wire.check()
        except ClosedError as error:
            self._fail(self._client.explain(error))

    def take(self) -> list[tuple[int, bytes]]:
        """Return the output that has come: kind of frame, bytes. Raise the error of the call after the last of it."""
        output, self._output = self._output, []
        if self._failure is not None and not output:
            raise self._failure
        return output

    def _read_frames(self) -> None:
        self._frames.feed(bytes(self._answer.body))
        self._answer.body.clear()
        try:
            for kind, payload in self._frames.take():
                if kind == EXIT:
                    self.exit = read_json(payload)
                elif kind == PROBLEM:
                    self._fail(self._client.problem(read_json(payload)))
                else:
                    self._output.append((kind, payload))
        except (FrameError, AnswerError) as error:
            self._fail(self._client.explain(error))

    def _fail(self, error: PycmError) -> None:
        if not self.done:
            self._failure = error

    def close(self) -> None:
        self._wire.close()
