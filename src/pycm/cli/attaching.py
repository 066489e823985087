# SPDX-License-Identifier: Apache-2.0
"""What `start --a`, `start --i` and `attach` have in common: the terminal joined with a container's first process."""

from __future__ import annotations

import contextlib
import sys

from pycm.api.methods import EXIT_CODE
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.cli import terminal
from pycm.errors import InvalidInputError, PycmError

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.api.proto.api.types.containers.types_pb2 import Container
    from pycm.cli.line import Line

LEFT = "\r\ndetached; container {} runs on\n"


def join(line: Line, container: Container, *, stdin: bool, then: Callable[[], None] | None = None) -> int:
    """Attach, do *then* (start the container), and pass on until its output ends; the exit code of the container.

    Detaching is exit code 0. Errors: CallError, OperationFailedError.
    """
    io = container.io_config
    takes_input = stdin and io.open_stdin
    keys = takes_input and io.tty and terminal.is_terminal()
    resized = _resizer(line, container.id) if io.tty and terminal.is_terminal(1) else None
    duplex = line.agent.attach(container.id, stdin=takes_input)
    out = terminal.stdout()
    try:
        if then is not None:
            then()
        with terminal.Raw(raw=keys):
            ended = terminal.converse(
                duplex,
                lambda message: terminal.write(out, m.AttachContainerResponse.FromString(message).read_data),
                _typed if takes_input else None,
                detachable=keys,
                resized=resized,
            )
    finally:
        duplex.close()
    if not ended:
        sys.stderr.write(LEFT.format(container.id))
        return 0
    return exit_code(duplex.metadata)


def exit_code(metadata: dict[str, str]) -> int:
    """What the agent says at the end of Attach; 0 if it says nothing."""
    text = metadata.get(EXIT_CODE, "0")
    return int(text) & 0xFF if text.isascii() and text.isdigit() else 0


def _typed(data: bytes) -> bytes:
    return m.AttachContainerRequest(data_to_write=data).SerializeToString()


def _resizer(line: Line, container_id: str) -> Callable[[int, int], None]:
    def resized(columns: int, rows: int) -> None:
        with contextlib.suppress(PycmError):  # it may have ended just now
            line.agent.own.resize(container_id, columns, rows)

    return resized


def check_terminal(container: Container, *, output: bool) -> None:
    """InvalidInputError if a container with a terminal is to be shown on something that is none."""
    if container.io_config.tty and output and not terminal.is_terminal(1):
        raise InvalidInputError("the input device is not a TTY")
