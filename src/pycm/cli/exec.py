# SPDX-License-Identifier: Apache-2.0
"""The commands that join the terminal with a container: exec and attach, and what `start --a` shares with attach."""

from __future__ import annotations

import contextlib
import os
import sys

from pycm.api.methods import EXIT_CODE
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.cli import terminal
from pycm.cli.choose import by_word, one
from pycm.cli.line import NAME, Command
from pycm.errors import ConflictError, InvalidInputError, OperationFailedError, PycmError
from pycm.flags import Flag

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.api.own_calls import OwnCalls
    from pycm.api.proto.api.types.containers.types_pb2 import Container
    from pycm.api.proto.pycm.v1.agent_pb2 import ExecEnd, ExecStart
    from pycm.cli.line import Line

LEFT = "\r\ndetached; container {} keeps running\n"
#: pycm failed, not the command. Also for a line that cannot be parsed: any other code could be the command's.
EXEC_FAILED = 125


# ── attach ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def attach(line: Line) -> int:
    container = one(line)
    if container.state.status not in ("Running", "Paused"):
        raise ConflictError(
            f'container "{container.name}" is not running, it is {container.state.status}:'
            " start --a --i starts it and attaches"
        )
    return join(line, container, stdin=not line.values["no-stdin"])


def join(line: Line, container: Container, *, stdin: bool, then: Callable[[], None] | None = None) -> int:
    """Attach, do *then* (start the container), and forward until its output ends; return the exit code of the container.

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
    """Return what the agent says at the end of Attach; 0 if it says nothing."""
    text = metadata.get(EXIT_CODE, "0")
    return int(text) & 0xFF if text.isascii() and text.isdigit() else 0


def _typed(data: bytes) -> bytes:
    return m.AttachContainerRequest(data_to_write=data).SerializeToString()


def _resizer(line: Line, container_id: str) -> Callable[[int, int], None]:
    def resized(columns: int, rows: int) -> None:
        with contextlib.suppress(PycmError):  # the container may have exited just now
            line.agent.own.resize(container_id, columns, rows)

    return resized


def check_terminal(container: Container, *, output: bool) -> None:
    """Raise InvalidInputError if a container with a terminal is to be shown on something that is not a terminal."""
    if container.io_config.tty and output and not terminal.is_terminal(1):
        raise InvalidInputError("the input device is not a TTY")  # compat


# ── exec ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def exec_(line: Line) -> int:
    try:
        return _Exec(line).run()
    except PycmError as error:
        sys.stderr.write(f"Error: {error}\n")
        return EXEC_FAILED


class _Exec:
    def __init__(self, line: Line) -> None:
        from pycm.api.proto.pycm.v1 import agent_pb2

        self._messages = agent_pb2
        self._line = line
        self._end: ExecEnd | None = None
        if len(line.rest) < 2:
            raise InvalidInputError("a container and a command are expected")
        self._stdin, self._tty = line.values["interactive"], line.values["tty"]
        if self._tty and self._stdin and not terminal.is_terminal():
            raise InvalidInputError("the input device is not a TTY: leave out --tty")

    def run(self) -> int:
        from pycm.api.own_calls import failures

        own = self._line.agent.own
        start = self._start(by_word(self._line.agent, self._line.rest[0]).id)
        with failures():
            self._talk(own, start)
        if self._end is None:
            raise OperationFailedError("the agent ended the call without an exit code")
        if self._end.error:
            sys.stderr.write(f"Error: {self._end.error}\n")
        return self._end.exit_code

    def _start(self, container_id: str) -> ExecStart:
        values = self._line.values
        env = list(values["env"])
        if self._tty and not any(entry.startswith("TERM=") for entry in env):
            env.append("TERM=" + os.environ.get("TERM", "xterm"))
        start = self._messages.ExecStart(
            container_id=container_id,
            command=self._line.rest[1:],
            tty=self._tty,
            stdin=self._stdin,
            env=env,
            user=values["user"],
            working_dir=values["workdir"],
        )
        columns, rows = terminal.size() if self._tty else (0, 0)
        if columns and rows:
            start.size.columns, start.size.rows = columns, rows
        return start

    def _talk(self, own: OwnCalls, start: ExecStart) -> None:
        duplex = own.exec(start)
        m = self._messages

        def resized(columns: int, rows: int) -> None:
            size = m.TerminalSize(columns=columns, rows=rows)
            duplex.write(m.ExecRequest(resize=size).SerializeToString())

        keys = self._tty and self._stdin
        try:
            duplex.begin()
            with terminal.Raw(raw=keys):
                terminal.converse(
                    duplex,
                    self._received,
                    self._typed if self._stdin else None,
                    resized=resized if self._tty and terminal.is_terminal(1) else None,
                )
        finally:
            duplex.close()

    def _typed(self, data: bytes) -> bytes:
        return self._messages.ExecRequest(stdin=data).SerializeToString()

    def _received(self, data: bytes) -> None:
        message = self._messages.ExecResponse.FromString(data)
        kind = message.WhichOneof("response")
        if kind == "stdout":
            terminal.write(terminal.stdout(), message.stdout)
        elif kind == "stderr":
            terminal.write(sys.stderr.buffer, message.stderr)
        elif kind == "end":
            self._end = message.end


COMMANDS = {
    "attach": Command(
        attach,
        "attach [<container>] [flags]",
        ("attach databroker", "attach --no-stdin 1d1e32"),
        flags=(NAME, Flag("no-stdin", kind="bool", about="print the output only")),
        arguments=1,
    ),
    "exec": Command(
        exec_,
        "exec [flags] <container> <command> [argument]...",
        (
            "exec databroker ls -l /",
            "exec -it databroker /bin/sh",
            "exec -i databroker sh -c 'cat > /tmp/file' < file",
        ),
        flags=(
            Flag("env", "e", kind="stringArray", about="additional variable as NAME=value", word="variable"),
            Flag("interactive", "i", kind="bool", about="forward stdin"),
            Flag("tty", "t", kind="bool", about="allocate a terminal"),
            Flag("user", "u", about="user as name, uid, name:group or uid:gid (default: the container's)"),
            Flag("workdir", "w", about="working directory (default: the container's)"),
        ),
        interspersed=False,  # what follows the container is the command, with flags of its own
        usage_code=EXEC_FAILED,
    ),
}
