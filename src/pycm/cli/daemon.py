# SPDX-License-Identifier: Apache-2.0
"""`container-management`, `pycmd` or `pycm daemon`: read the command line and the configuration, then run the agent.

The agent is imported last: `--help`, `--version` and errors of the configuration file do not need it.
"""

from __future__ import annotations

import logging
import signal
import sys

from pycm import __version__
from pycm.config.load import ETC, FLAGS, load_parsed, parse_line, source_of
from pycm.config.render import render_effective
from pycm.errors import PycmError
from pycm.flags import Flag, Parsed, render_help

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycm.config.load import Loaded, Source

_USAGE = "container-management [flags]"
_ABOUT = f"""\
The container manager of this device: it keeps containers in their desired state, measures them, and talks to the cloud
through the local MQTT broker.

Without --cfg-file it reads the configuration from {ETC}/config.toml or, if that does not exist, config.json.
Flags override the file. All keys are optional."""


def main(argv: Sequence[str], *, etc: str = ETC) -> int:
    """*argv*: without the program's name. Returns the exit code."""
    try:
        parsed = parse_line(argv)
        if _answered(parsed):
            return 0
        loaded = load_parsed(parsed, etc=etc)
    except PycmError as error:
        print(f"Error: {error.printed}", file=sys.stderr)
        return 1
    return _check(loaded) if loaded.check else _run(loaded, source_of(loaded, parsed, etc=etc))


def _answered(parsed: Parsed) -> bool:
    """Help and version, which must work whatever the configuration is."""
    if parsed.values["help"]:
        sys.stdout.write(help_text())
    elif parsed.values["version"]:
        print(f"container-management (pycm) {__version__}")
    else:
        return False
    return True


def help_text() -> str:
    flags: list[Flag] = list(FLAGS)
    return render_help(_ABOUT, _USAGE, flags)


def _check(loaded: Loaded) -> int:
    from pycm.agent import settle

    config, errors = settle(loaded.config)
    failed = False
    for note in (*loaded.notes, *errors):
        if note.level >= logging.WARNING:
            failed = failed or note.level >= logging.ERROR
            print(f"{'Error' if note.level >= logging.ERROR else 'Warning'}: {note.text}", file=sys.stderr)
    if not failed:
        sys.stdout.write(render_effective(config))
    return int(failed)


#: What ends the agent in order, what reports a fault of the process (SIGABRT is systemd's watchdog), and what does
# nothing by default. fmt: off
_HEEDED = (
    "INT",
    "TERM",
    "QUIT",
    "HUP",
    "ABRT",
    "SEGV",
    "BUS",
    "FPE",
    "ILL",
    "KILL",
    "STOP",
    "CONT",
    "CHLD",
    "URG",
    "WINCH",
)
# fmt: on


def _ignore_stray_signals() -> None:
    """All other signals would end or stop an agent that has no use for them. Its workers inherit this."""
    heeded = {getattr(signal, f"SIG{name}") for name in _HEEDED}
    for number in signal.valid_signals() - heeded:
        signal.signal(number, signal.SIG_IGN)


def _run(loaded: Loaded, source: Source) -> int:
    _ignore_stray_signals()
    # Ctrl-C before the agent listens to it: an end without a traceback. Who starts it in the background has it ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pycm.agent import run

    return run(loaded.config, loaded.notes, source)
