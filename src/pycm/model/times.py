# SPDX-License-Identifier: Apache-2.0
"""Times as Kanto writes them: RFC 3339, UTC, up to nanoseconds, trailing zeros of the fraction dropped."""

from __future__ import annotations

import re
import time

NANOSECONDS = 1_000_000_000
_FORM = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


def format_ns(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as text, for instance 2026-11-23T18:39:26.49510863Z."""
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def now() -> str:
    """The wall clock's time, for display and records; intervals are measured with the monotonic clock."""
    return format_ns(time.time_ns())


def sort_key(text: str) -> str:
    """A string that sorts like the time *text* says; texts of another form sort as they are."""
    match = _FORM.fullmatch(text)
    return f"{match[1]}.{match[2] or '':0<9}" if match else text
