# SPDX-License-Identifier: Apache-2.0
"""The terminal, or the pipes, of whoever runs a command, joined with a process in a container."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty

from pycm.errors import OperationFailedError

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, BinaryIO

    from typing_extensions import Self

    from pycm.api.duplex import Duplex

#: Ctrl-P Ctrl-Q in a row leave the container to itself.
DETACH = b"\x10\x11"
STDIN = 0
_CHUNK = 32 * 1024


def is_terminal(descriptor: int = STDIN) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size() -> tuple[int, int]:
    """Columns and rows of the terminal; (0, 0) if there is none."""
    for descriptor in (1, STDIN, 2):
        try:
            return tuple(os.get_terminal_size(descriptor))  # type: ignore[return-value]
        except OSError:
            continue
    return 0, 0


class Raw:
    """Every key goes to the container as it is, Ctrl-C too; how ever it ends, the terminal is as it was before.

    SIGTERM and SIGHUP end the program by SystemExit, so that it passes through here. With *raw* False nothing is done.
    """

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._raw:
            try:
                self._before = termios.tcgetattr(STDIN)
                for number in (signal.SIGTERM, signal.SIGHUP):
                    self._handlers[number] = signal.signal(number, _leave)
                tty.setraw(STDIN, termios.TCSADRAIN)  # what was typed ahead is kept
            except termios.error as error:
                raise OperationFailedError(f"failed to set raw mode: {error.args[-1]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            try:
                termios.tcsetattr(STDIN, termios.TCSADRAIN, self._before)
            except termios.error:
                pass  # the terminal is gone
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class Resizes:
    """Calls *resized* with columns and rows now and whenever the terminal's size changes; *descriptor* wakes a poll for it."""

    def __init__(self, resized: Callable[[int, int], None] | None) -> None:
        self._resized = resized
        self.descriptor = -1

    def __enter__(self) -> Self:
        if self._resized is not None:
            self.descriptor, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._handler = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        if self._resized is not None:
            signal.set_wakeup_fd(self._wakeup)
            signal.signal(signal.SIGWINCH, self._handler)
            os.close(self.descriptor)
            os.close(self._writer)

    def woken(self) -> None:
        if signal.SIGWINCH in os.read(self.descriptor, 4096):
            self._tell()

    def _tell(self) -> None:
        columns, rows = size()
        if columns and rows and self._resized is not None:
            self._resized(columns, rows)


def converse(
    duplex: Duplex,
    received: Callable[[bytes], None],
    typed: Callable[[bytes], bytes] | None,
    *,
    detachable: bool = False,
    resized: Callable[[int, int], None] | None = None,
) -> bool:
    """Pass messages to *received*, and stdin through *typed* into messages, until the call ends; False if the user detached.

    *typed* None: stdin is not touched. *detachable*: DETACH ends it. Errors: CallError.
    """
    with Resizes(resized) as resizes:
        return _Talk(duplex, received, typed, resizes, detachable=detachable).run()


class _Talk:
    def __init__(
        self,
        duplex: Duplex,
        received: Callable[[bytes], None],
        typed: Callable[[bytes], bytes] | None,
        resizes: Resizes,
        *,
        detachable: bool,
    ) -> None:
        self._duplex = duplex
        self._received = received
        self._typed = typed
        self._resizes = resizes
        self._detachable = detachable
        self._held = b""  # Ctrl-P, until the next key tells what it was

    def run(self) -> bool:
        while True:
            for message in self._duplex.take():
                self._received(message)
            if self._duplex.done:
                return True
            ready = self._wait()
            self._duplex.check()
            if self._resizes.descriptor in ready:
                self._resizes.woken()
            if STDIN in ready and not self._read():
                return False
            if self._duplex.fileno() in ready:
                self._duplex.receive()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._duplex.fileno(), select.POLLIN)
        if self._typed is not None and self._duplex.hungry:
            poll.register(STDIN, select.POLLIN)
        if self._resizes.descriptor >= 0:
            poll.register(self._resizes.descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(self._duplex.quiet * 1000 + 1)}

    def _read(self) -> bool:
        """False if the user wants to leave."""
        assert self._typed is not None
        try:
            data = os.read(STDIN, _CHUNK)
        except OSError:  # closed, or the terminal is gone
            data = b""
        if not data:
            self._typed = None
            self._duplex.end()
            return True
        left = False
        if self._detachable:
            data, left = detached(self._held + data)
            self._held = data[-1:] if data.endswith(DETACH[:1]) and not left else b""
            data = data[: len(data) - len(self._held)]
        if data:
            self._duplex.write(self._typed(data))
        return not left


def detached(data: bytes) -> tuple[bytes, bool]:
    """What stands before the keys that detach, and whether they were there."""
    before, keys, _ = data.partition(DETACH)
    return before, bool(keys)


def write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def stdout() -> BinaryIO:
    return sys.stdout.buffer
