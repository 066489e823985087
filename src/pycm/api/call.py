# SPDX-License-Identifier: Apache-2.0
"""One gRPC call as the client sees it, without I/O: headers and bytes in, messages and the final status out."""

from __future__ import annotations

from pycm.api.methods import PREFIX_SIZE, code_name
from pycm.errors import PycmError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Longest message that the client takes. Go's clients stop at 4 MiB; a list of thousands of containers is longer.
MAX_ANSWER = 64 * 1024 * 1024

OK, CANCELED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = (
    0, 1, 2, 4, 8, 12, 13, 14,
)  # fmt: skip

#: HTTP/2 error codes that have a meaning of their own (gRPC over HTTP/2, "Errors"); the others are INTERNAL.
_RESETS = {7: UNAVAILABLE, 8: CANCELED, 11: RESOURCE_EXHAUSTED}


class CallError(PycmError):
    """The call ended with a status other than OK. The text is what Go's clients print."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"rpc error: code = {code_name(code)} desc = {text}")
        self.code = code
        self.text = text


class Call:
    """Feed it with `headers`, `data`, `end`, `reset`; take from `messages`.

    `done`: no more will come. `ended`: the peer knows that; if not, the call is to be cancelled. `begun`: the peer has answered.
    `metadata`: of headers and trailers, as far as it is not gRPC's own.
    """

    def __init__(self) -> None:
        self.begun = False
        self.done = False
        self.ended = False
        self.metadata: dict[str, str] = {}
        self._buffer = bytearray()
        self._status: int | None = None
        self._text = ""

    def headers(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Headers or trailers: the status may stand in either."""
        self.begun = True
        for name, value in pairs:
            if name == ":status" and value != "200":
                self._fail(
                    UNAVAILABLE, f"the peer is no gRPC server: it answered with HTTP status {value[:20]}"
                )
            elif name == "grpc-status":
                self._status = (
                    int(value) if value.isascii() and value.isdigit() and len(value) < 6 else UNKNOWN
                )
            elif name == "grpc-message":
                self._text = percent_decoded(value)
            else:
                self.metadata[name] = value

    def data(self, chunk: bytes) -> None:
        self._buffer += chunk

    def messages(self) -> Iterator[bytes]:
        """Every whole message that has come and was not taken."""
        buffer = self._buffer
        while not self.done or self._status in (None, OK):
            if len(buffer) < PREFIX_SIZE:
                return
            end = PREFIX_SIZE + int.from_bytes(buffer[1:PREFIX_SIZE], "big")
            if not self._acceptable(compressed=buffer[0] != 0, size=end - PREFIX_SIZE) or len(buffer) < end:
                return
            message = bytes(buffer[PREFIX_SIZE:end])
            del buffer[:end]
            yield message

    def _acceptable(self, *, compressed: bool, size: int) -> bool:
        if compressed:
            self._fail(INTERNAL, "the answer is compressed, which was not asked for")
        elif size > MAX_ANSWER:
            self._fail(
                RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {MAX_ANSWER})"
            )
        else:
            return True
        return False

    def end(self) -> None:
        """The peer has sent all."""
        if not self.done and self._status is None:
            self._fail(UNKNOWN, "the agent ended the call without a status")
        self.done = self.ended = True

    def reset(self, code: int) -> None:
        """RST_STREAM; after the end it has no meaning."""
        self.ended = True
        if not self.done:
            self._fail(_RESETS.get(code, INTERNAL), f"the agent reset the call (HTTP/2 error code {code})")

    def lost(self, why: str) -> None:
        """The connection is gone."""
        self.ended = True
        if not self.done:
            self._fail(UNAVAILABLE, why)

    def expire(self, seconds: float) -> None:
        if not self.done:
            self._fail(DEADLINE_EXCEEDED, f"no answer within {seconds:g} s")

    def _fail(self, code: int, text: str) -> None:
        if not self.done:
            self._status, self._text, self.done = code, text, True

    @property
    def failed(self) -> bool:
        return bool(self._status)

    def check(self) -> None:
        """Raise CallError unless the call ended well."""
        if self._status:
            raise CallError(self._status, self._text)
        if self._buffer:
            raise CallError(INTERNAL, "the agent ended the call in the middle of a message")


def percent_decoded(text: str) -> str:
    """grpc-message: UTF-8 with %XX; what is no such pair stays as it is."""
    if "%" not in text:
        return text
    out = bytearray()
    first, *rest = text.encode("utf-8", "replace").split(b"%")
    out += first
    for part in rest:
        try:
            out += (
                bytes.fromhex(part[:2].decode("ascii"))
                if len(part) >= 2 and part[:2].isalnum()
                else b"%" + part[:2]
            )
        except ValueError:
            out += b"%" + part[:2]
        out += part[2:]
    return out.decode("utf-8", "replace")
