# SPDX-License-Identifier: Apache-2.0
"""The terminal or the pipes of the command line, joined with a process in a container."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty

from pycm.api.protocol import RESIZE, STDERR
from pycm.api.protocol import STDIN as STDIN_FRAME
from pycm.errors import OperationFailedError

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, BinaryIO

    from typing_extensions import Self

    from pycm.cli.channel import Channel

#: Ctrl-P Ctrl-Q in a row detach from the container.
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
    """Forward every key unchanged, Ctrl-C too, and restore the terminal at the end, however that comes.

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
    """Call *resized* with columns and rows now and after each change of the terminal's size; `descriptor` wakes a poll
    for it.
    """

    def __init__(self, resized: Callable[[int, int], None] | None) -> None:
        self._resized = resized
        self.descriptor = -1

    def __enter__(self) -> Self:
        if self._resized is not None:
            self.descriptor, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._handler = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._send()
        return self

    def __exit__(self, *_: object) -> None:
        if self._resized is not None:
            signal.set_wakeup_fd(self._wakeup)
            signal.signal(signal.SIGWINCH, self._handler)
            os.close(self.descriptor)
            os.close(self._writer)

    def woken(self) -> None:
        if signal.SIGWINCH in os.read(self.descriptor, 4096):
            self._send()

    def _send(self) -> None:
        columns, rows = size()
        if columns and rows and self._resized is not None:
            self._resized(columns, rows)


def converse(channel: Channel, *, stdin: bool, detachable: bool = False, resizes: bool = False) -> bool:
    """Forward output, and stdin if wanted, until the call ends; return False if the user detached.

    *detachable*: DETACH ends it. *resizes*: the agent gets the size of the terminal, and each change of it. Errors:
    those of Channel.
    """

    def resized(columns: int, rows: int) -> None:
        channel.write(RESIZE, b'{"columns":%d,"rows":%d}' % (columns, rows))

    with Resizes(resized if resizes else None) as watch:
        return _Talk(channel, watch, stdin=stdin, detachable=detachable).run()


class _Talk:
    def __init__(self, channel: Channel, resizes: Resizes, *, stdin: bool, detachable: bool) -> None:
        self._channel = channel
        self._resizes = resizes
        self._stdin = stdin
        self._detachable = detachable
        self._held = b""  # Ctrl-P, until the next key shows what it means

    def run(self) -> bool:
        while True:
            output = self._channel.take()
            for kind, data in output:
                _write(sys.stderr.buffer if kind == STDERR else sys.stdout.buffer, data)
            if self._channel.done and not output:
                return True
            if output:
                continue
            ready = self._wait()
            self._channel.check()
            if self._resizes.descriptor in ready:
                self._resizes.woken()
            if STDIN in ready and not self._read():
                return False
            events = ready.get(self._channel.fileno(), 0)
            if events & select.POLLOUT:
                self._channel.flush()
            if events & ~select.POLLOUT:
                self._channel.receive()

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        wanted = select.POLLIN | (select.POLLOUT if self._channel.unsent else 0)
        poll.register(self._channel.fileno(), wanted)
        if self._stdin and self._channel.hungry:
            poll.register(STDIN, select.POLLIN)
        if self._resizes.descriptor >= 0:
            poll.register(self._resizes.descriptor, select.POLLIN)
        return dict(poll.poll(self._channel.quiet * 1000 + 1))

    def _read(self) -> bool:
        """Forward what was typed; return False if the user wants to leave."""
        try:
            data = os.read(STDIN, _CHUNK)
        except OSError:  # closed, or the terminal is gone
            data = b""
        if not data:
            self._stdin = False
            self._channel.write(STDIN_FRAME)
            return True
        left = False
        if self._detachable:
            data, left = detached(self._held + data)
            self._held = data[-1:] if data.endswith(DETACH[:1]) and not left else b""
            data = data[: len(data) - len(self._held)]
        if data:
            self._channel.write(STDIN_FRAME, data)
        return not left


def detached(data: bytes) -> tuple[bytes, bool]:
    """Return what comes before the keys that detach, and whether they were there."""
    before, keys, _ = data.partition(DETACH)
    return before, bool(keys)


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()
