# SPDX-License-Identifier: Apache-2.0
"""Signals as users name them: a number from 1 to 255 or an exact upper-case name such as SIGTERM."""

from __future__ import annotations

import signal

from pycm.errors import InvalidInputError, shorten

DEFAULT = signal.SIGTERM


def parse_signal(text: str) -> int:
    """The number of a signal; "" is SIGTERM. InvalidInputError with the original's text otherwise ("TERM" is none)."""
    if not text:
        return int(DEFAULT)
    if text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 255:
        return int(text)
    number = signal.Signals.__members__.get(text)
    if number is None or not text.startswith("SIG") or text.startswith("SIGRT"):
        raise InvalidInputError(f"invalid signal = {text if len(text) <= 80 else shorten(text)}")
    return int(number)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def exit_text(code: int) -> str:
    """An exit code for people, with the signal that a code above 128 stands for."""
    name = signal_name(code - 128)
    return f"exit code {code} ({name})" if name.startswith("SIG") else f"exit code {code}"
