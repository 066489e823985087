# SPDX-License-Identifier: Apache-2.0
"""The three programs: `pycm`, `kanto-cm` (the same commands under the name that scripts know) and the agent, which pip
installs as `container-management` and the Yocto recipe as `pycmd`.

Every start passes through here, so nothing slow is imported: a command's file is imported when it is the one to run,
and the protocol when a call is made. Errors are one line on stderr and exit code 1.
"""

from __future__ import annotations

import io
import os
import sys

from pycm import __version__
from pycm.cli.line import GLOBAL_FLAGS, parse_command, report
from pycm.errors import ConflictError, InvalidInputError, NotFoundError, PycmError, UnavailableError
from pycm.flags import HELP, command_index, parse, printable, quote, render_help

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from pycm.cli.line import Command

# fmt: off
#: Command: the file of this package that has it, and its summary (here, so that the root help imports no command).
KANTO_COMMANDS = {
    "create":  ("create",  "Create a container"),
    "get":     ("inspect", "Print everything about a container as JSON"),
    "list":    ("list",    "List containers"),
    "logs":    ("inspect", "Print the output of a container"),
    "pause":   ("state",   "Freeze all processes of a container"),
    "remove":  ("state",   "Remove containers"),
    "rename":  ("state",   "Rename a container"),
    "restart": ("state",   "Stop a container and start it again"),
    "start":   ("state",   "Start a container"),
    "stop":    ("state",   "Stop a container"),
    "sysinfo": ("inspect", "Print the versions of the agent and of this program"),
    "unpause": ("state",   "Resume a paused container"),
    "update":  ("update",  "Change the restart policy and limits of a container"),
}
#: Commands that Kanto lacks: `pycm` has them, `kanto-cm` does not. The same holds for DAEMON.
OWN_COMMANDS = {
    "attach":  ("exec",    "Attach the terminal to a running container"),
    "events":  ("watch",   "Print events of containers as they happen"),
    "exec":    ("exec",    "Run a command in a running container"),
    "image":   ("image",   "List, pull and remove images"),
    "pull":    ("image",   "Pull images from their registries"),
    "stats":   ("watch",   "Show the resource usage of running containers"),
    "wait":    ("watch",   "Wait until containers exit, and print their exit codes"),
}
# fmt: on
DAEMON = "daemon"
DAEMON_SUMMARY = "Run the agent in the foreground"

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
        report(error, hints=program == "pycm")
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
    command = find_command(program, name)
    try:
        line = parse_command(program, name, command, rest)
    except InvalidInputError as error:
        if not command.usage_code:
            raise
        report(error)
        return command.usage_code
    if line.values["help"]:
        sys.stdout.write(_command_help(program, name, command))
        return 0
    return command.run(line) or 0


def _check_encoding(argv: Sequence[str]) -> None:
    for word in argv:
        if "\0" in word or (not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word)):
            raise InvalidInputError(f"the argument {printable(word)} is not valid UTF-8")


def _daemon(argv: list[str]) -> int:
    from pycm.cli.daemon import main

    return main(argv)


def commands(program: str) -> dict[str, tuple[str, str]]:
    return {**KANTO_COMMANDS, **OWN_COMMANDS} if program == "pycm" else KANTO_COMMANDS


def find_command(program: str, name: str) -> Command:
    """Import the file of a command. Errors: InvalidInputError."""
    found = commands(program).get(name)
    if found is None:
        raise InvalidInputError(f'unknown command {quote(name)} for "{program}"' + _suggestion(program, name))
    module = getattr(__import__(f"pycm.cli.{found[0]}").cli, found[0])
    return module.COMMANDS[name]  # type: ignore[no-any-return]


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
    return _command_help(program, topics[0], find_command(program, topics[0]))


def root_help(program: str) -> str:
    listed = {name: summary for name, (_, summary) in commands(program).items()}
    listed["help"] = "Print the help of a command"
    if program == "pycm":
        listed[DAEMON] = DAEMON_SUMMARY
    return render_help(
        f"Manages the containers of this device.\n{program} {__version__}",
        f"{program} [command] [flags]",
        (HELP,),
        commands=sorted(listed.items()),
        global_flags=GLOBAL_FLAGS,
    )


def _command_help(program: str, name: str, command: Command) -> str:
    return render_help(
        f"{commands(program)[name][1]}.",
        f"{program} {command.usage}",
        (*command.flags, HELP),
        examples="\n".join(f"  {program} {example}" for example in command.examples),
        global_flags=GLOBAL_FLAGS,
    )
