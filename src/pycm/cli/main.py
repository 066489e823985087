# SPDX-License-Identifier: Apache-2.0
"""The three programs: `pycm`, `kanto-cm` (the same commands under the name that scripts know) and the agent, which pip installs as
`container-management` and the Yocto recipe as `pycmd`.

Every start passes through here, so nothing slow is imported: a command's file is imported when it is the one to run, and the
protocol when a call is made. Errors are one line on stderr and exit code 1.
"""

from __future__ import annotations

import io
import os
import sys

from pycm import __version__
from pycm.cli.line import GLOBAL_FLAGS, Line, parse_command
from pycm.config.flags import HELP, command_index, parse, printable, quote, render_help
from pycm.errors import ConflictError, InvalidInputError, NotFoundError, PycmError, UnavailableError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

#: Every command has a file of its name in this package.
COMMANDS = {
    "create": "Create a container",
    "get": "Print all that is known of a container as JSON",
    "list": "List containers",
    "logs": "Print the output of a container",
    "pause": "Freeze all processes of a container",
    "remove": "Remove containers",
    "rename": "Give a container another name",
    "restart": "Stop a container and start it again",
    "start": "Start a container",
    "stop": "Stop a container",
    "sysinfo": "Print the versions of agent and command line",
    "unpause": "Let a paused container go on",
    "update": "Change restart policy and limits of a container",
}
#: Commands that Kanto lacks; taken by `pycm` only, as is DAEMON.
OWN_COMMANDS = {
    "attach": "Join the terminal with a running container",
    "exec": "Run a command in a running container",
    "events": "Print what happens to containers, as it happens",
    "image": "List, pull and remove images",
    "pull": "Fetch images from their registries",
    "stats": "Show what running containers use",
    "wait": "Wait until containers end, and print their exit codes",
}
DAEMON = "daemon"
DAEMON_HELP = "Run the agent in the foreground"

#: Exit codes. `kanto-cm` knows FAILED only, as the original.
FAILED, USAGE, UNREACHABLE, NOT_FOUND, CONFLICT, EXPIRED = 1, 2, 3, 4, 5, 6
INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


def pycm() -> int:
    """`kanto-cm` may be a link to this program."""
    called = os.path.basename(sys.argv[0])
    return _program("kanto-cm" if called == "kanto-cm" else "pycm")


def kanto_cm() -> int:
    return _program("kanto-cm")


def container_management() -> int:
    return _daemon(sys.argv[1:])


def _program(name: str) -> int:
    sys.stdout, sys.stderr = _utf8(sys.stdout), _utf8(sys.stderr)
    return run(name, sys.argv[1:])


def _utf8(stream: TextIO | None) -> TextIO:
    """Output is UTF-8 whatever the locale; a closed stream (None) swallows what is written."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="replace")
    return stream or open(os.devnull, "w", encoding="utf-8")


def run(program: str, argv: Sequence[str]) -> int:
    """One command line; returns the exit code."""
    try:
        code = _dispatch(program, argv)
        sys.stdout.flush()
    except PycmError as error:
        sys.stderr.write(f"Error: {error}\n")
        return _code(error) if program == "pycm" else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"Error: cannot write the output: {error.strerror}\n")
        sys.stdout = None  # nothing may be flushed at the end: it would fail again
        return FAILED
    return code


def _code(error: PycmError) -> int:
    codes = (
        (InvalidInputError, USAGE),
        (UnavailableError, UNREACHABLE),
        (NotFoundError, NOT_FOUND),
        (ConflictError, CONFLICT),
    )
    return next(
        (code for kind, code in codes if isinstance(error, kind)), getattr(error, "EXIT_CODE", FAILED)
    )


def _dispatch(program: str, argv: Sequence[str]) -> int:
    _check_encoding(argv)
    index = command_index((*GLOBAL_FLAGS, HELP), argv)
    if index is None:
        parse((*GLOBAL_FLAGS, HELP), argv)
        sys.stdout.write(root_help(program))
        return 0
    name, rest = argv[index], [*argv[:index], *argv[index + 1 :]]
    if name == "help":
        sys.stdout.write(_help(program, rest))
        return 0
    if name == DAEMON and program == "pycm":
        return _daemon(rest)
    command = _command(program, name)
    try:
        line = parse_command(program, name, command, rest)
    except InvalidInputError as error:
        if not hasattr(command, "ENGINE_FAILED"):
            raise
        sys.stderr.write(f"Error: {error}\n")
        return int(command.ENGINE_FAILED)
    if line.values["help"]:
        sys.stdout.write(_command_help(program, name, line.command))
        return 0
    return _run(line)


def _check_encoding(argv: Sequence[str]) -> None:
    for word in argv:
        if "\0" in word or (not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word)):
            raise InvalidInputError(f"the argument {printable(word)} is not valid UTF-8")


def _run(line: Line) -> int:
    """Most commands return nothing: they fail by an error."""
    try:
        return line.command.run(line) or 0
    finally:
        line.close()


def _daemon(argv: list[str]) -> int:
    from pycm.cli.daemon import main

    return main(argv)


def commands(program: str) -> dict[str, str]:
    return {**COMMANDS, **OWN_COMMANDS} if program == "pycm" else COMMANDS


def _command(program: str, name: str) -> Any:
    if name not in commands(program):
        raise InvalidInputError(f'unknown command {quote(name)} for "{program}"' + _suggestion(program, name))
    return getattr(__import__(f"pycm.cli.{name}").cli, name)


def _suggestion(program: str, name: str) -> str:
    known = [*commands(program), "help", *([DAEMON] if program == "pycm" else [])]
    near = [command for command in known if _is_near(name.lower(), command)]
    return "\n\nDid you mean this?\n" + "".join(f"\t{command}\n" for command in near) if near else ""


def _is_near(word: str, command: str) -> bool:
    return command.startswith(word) or _distance(word, command) <= 2


def _distance(a: str, b: str) -> int:
    """Levenshtein's: how many letters to change, insert or delete."""
    if abs(len(a) - len(b)) > 2:
        return 3
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _help(program: str, words: list[str]) -> str:
    topics = parse((*GLOBAL_FLAGS, HELP), words).rest
    if not topics:
        return root_help(program)
    if topics[0] == DAEMON and program == "pycm":
        from pycm.cli.daemon import help_text

        return help_text()
    return _command_help(program, topics[0], _command(program, topics[0]))


def root_help(program: str) -> str:
    listed = {**commands(program), "help": "Print the help of a command"}
    if program == "pycm":
        listed[DAEMON] = DAEMON_HELP
    return render_help(
        f"Manages the containers of this device.\n{program} {__version__}",
        f"{program} [command] [flags]",
        (HELP,),
        commands=sorted(listed.items()),
        global_flags=GLOBAL_FLAGS,
    )


def _command_help(program: str, name: str, command: Any) -> str:
    return render_help(
        f"{commands(program)[name]}.",
        f"{program} {command.USAGE}",
        (*command.FLAGS, HELP),
        examples="\n".join(f"  {program} {example}" for example in command.EXAMPLES),
        global_flags=GLOBAL_FLAGS,
    )
