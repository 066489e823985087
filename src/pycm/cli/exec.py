# SPDX-License-Identifier: Apache-2.0
"""`exec`: run a command in a running container, and end with its exit code.

Exit codes are a shell's: 126 the command cannot be executed, 127 it is not there, 128 + n signal n ended it, else its own; 125 says
that something else than the command failed.
"""

from __future__ import annotations

import os
import sys

from pycm.cli.choose import by_word
from pycm.config.flags import Flag
from pycm.errors import InvalidInputError, OperationFailedError, PycmError

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from pycm.api.own_calls import OwnCalls
    from pycm.api.proto.pycm.v1.agent_pb2 import ExecEnd, ExecStart
    from pycm.cli.line import Line

USAGE = "exec [flags] <container> <command> [argument]..."
EXAMPLES = (
    "exec databroker ls -l /",
    "exec -it databroker /bin/sh",
    "exec -i databroker sh -c 'cat > /tmp/file' < file",
)
FLAGS = (
    Flag("env", "e", kind="stringArray", about="further variable as NAME=value", word="variable"),
    Flag("interactive", "i", kind="bool", about="pass on standard input"),
    Flag("tty", "t", kind="bool", about="give it a terminal"),
    Flag("user", "u", about="user as name, uid, name:group or uid:gid (default: the container's)"),
    Flag("workdir", "w", about="directory to begin in (default: the container's)"),
)
MOST_ARGUMENTS = None
#: What follows the container is the command, flags of its own included.
INTERSPERSED = False
#: Also for a line that is wrong (see `main`): any other code could be the command's.
ENGINE_FAILED = 125


def run(line: Line) -> int:
    try:
        return _Exec(line).run()
    except PycmError as error:
        sys.stderr.write(f"Error: {error}\n")
        return ENGINE_FAILED


class _Exec:
    def __init__(self, line: Line) -> None:
        from pycm.api.proto.pycm.v1 import agent_pb2
        from pycm.cli import terminal

        self._messages, self._terminal = agent_pb2, terminal
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
        columns, rows = self._terminal.size() if self._tty else (0, 0)
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
            with self._terminal.Raw(raw=keys):
                self._terminal.converse(
                    duplex,
                    self._received,
                    self._typed if self._stdin else None,
                    resized=resized if self._tty and self._terminal.is_terminal(1) else None,
                )
        finally:
            duplex.close()

    def _typed(self, data: bytes) -> bytes:
        return self._messages.ExecRequest(stdin=data).SerializeToString()

    def _received(self, data: bytes) -> None:
        message = self._messages.ExecResponse.FromString(data)
        kind = message.WhichOneof("response")
        if kind == "stdout":
            self._terminal.write(self._terminal.stdout(), message.stdout)
        elif kind == "stderr":
            self._terminal.write(sys.stderr.buffer, message.stderr)
        elif kind == "end":
            self._end = message.end
