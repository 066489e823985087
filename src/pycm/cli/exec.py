# SPDX-License-Identifier: Apache-2.0
"""The commands that join the terminal with a container: exec and attach, and what `start --a` shares with attach."""

from __future__ import annotations

import os
import sys

from pycm.cli import terminal
from pycm.cli.choose import find_by_word, find_one, id_of, name_of, part_of, status_of
from pycm.cli.client import NotStartedError
from pycm.cli.line import NAME, Command, report
from pycm.errors import ConflictError, InvalidInputError, OperationFailedError, PycmError
from pycm.flags import Flag

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycm.cli.line import Line

LEFT = "\r\ndetached; container {} keeps running\n"
#: pycm failed, not the command. Also for a line that cannot be parsed: any other code could be the command's.
EXEC_FAILED = 125


# ── attach ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def attach(line: Line) -> int:
    container = find_one(line)
    status = status_of(container)
    if status not in ("Running", "Paused"):
        raise ConflictError(
            f'container "{name_of(container)}" is not running, it is {status}',
            hint="start --a --i starts it and attaches",
        )
    return join(line, container, stdin=not line.values["no-stdin"])


def join(line: Line, container: Any, *, stdin: bool, then: Callable[[], None] | None = None) -> int:
    """Attach, do *then* (start the container), and forward until its output ends; return the exit code of the
    container.

    Detaching is exit code 0. Errors: those of Client, OperationFailedError.
    """
    io = part_of(container, "io_config")
    tty, takes_input = bool(io.get("tty")), stdin and bool(io.get("open_stdin"))
    keys = takes_input and tty and terminal.is_terminal()
    channel = line.agent.attach(id_of(container), stdin=takes_input)
    try:
        if then is not None:
            then()
        with terminal.Raw(raw=keys):
            resizes = tty and terminal.is_terminal(1)
            ended = terminal.converse(channel, stdin=takes_input, detachable=keys, resizes=resizes)
    finally:
        channel.close()
    if not ended:
        sys.stderr.write(LEFT.format(id_of(container)))
        return 0
    return int((channel.exit or {}).get("exit_code", 0)) & 0xFF  # none: its output ended, and it still runs


def check_terminal(container: Any, *, output: bool) -> None:
    """Raise InvalidInputError if a container with a terminal is to be shown on something that is not a terminal."""
    if part_of(container, "io_config").get("tty") and output and not terminal.is_terminal(1):
        raise InvalidInputError("the input device is not a TTY")  # compat


# ── exec ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def exec_(line: Line) -> int:
    try:
        return _exec(line)
    except PycmError as error:
        report(error)
        return error.exit_code if isinstance(error, NotStartedError) else EXEC_FAILED


def _exec(line: Line) -> int:
    if len(line.rest) < 2:
        raise InvalidInputError("a container and a command are expected")
    stdin, tty = line.values["interactive"], line.values["tty"]
    if tty and stdin and not terminal.is_terminal():
        raise InvalidInputError("the input device is not a TTY", hint="omit --tty")
    container = find_by_word(line.agent, line.rest[0])
    channel = line.agent.exec(id_of(container), _command(line))
    try:
        with terminal.Raw(raw=tty and stdin):
            terminal.converse(channel, stdin=stdin, resizes=tty and terminal.is_terminal(1))
    finally:
        channel.close()
    if channel.exit is None or "exit_code" not in channel.exit:
        raise OperationFailedError("the agent ended the call without an exit code")
    return int(channel.exit["exit_code"])


def _command(line: Line) -> dict[str, Any]:
    """Return the body of the call."""
    values = line.values
    env, tty = list(values["env"]), values["tty"]
    if tty and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=" + os.environ.get("TERM", "xterm"))
    columns, rows = terminal.size() if tty else (0, 0)
    return {
        "command": line.rest[1:],
        "tty": tty,
        "stdin": values["interactive"],
        "env": env,
        "user": values["user"],
        "working_dir": values["workdir"],
        "columns": columns if rows else 0,
        "rows": rows if columns else 0,
    }


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
