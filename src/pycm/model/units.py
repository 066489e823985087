# SPDX-License-Identifier: Apache-2.0
"""Sizes, CPUs, signals and times as texts of users and of Kanto, to and from numbers.

Durations have a module of their own, which the command line imports at each start.
"""

from __future__ import annotations

import re
import signal
import time

from pycm.errors import InvalidInputError, shorten

#: A size: a decimal number, at most one blank, one unit in either case.
_SIZE = re.compile(r"(\d+(?:\.\d+)*) ?([kKmMgG])", re.ASCII)
_FACTORS = {"k": 1024, "m": 1024**2, "g": 1024**3}
_LONGEST = 64
_CPUS = re.compile(r"\d{1,4}(?:\.\d{1,9})?", re.ASCII)
_CPU_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)
#: The largest number that containerd accepts.
_MOST_BYTES = 2**63 - 1
#: Microseconds in which a container may use its quota of CPU time, as for runc and Docker.
CPU_PERIOD = 100_000
#: The kernel refuses less.
_LEAST_QUOTA = 1_000
#: What stops a container that names no signal.
DEFAULT_SIGNAL = signal.SIGTERM
NANOSECONDS = 1_000_000_000
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


def size_to_bytes(text: str) -> int:
    """Bytes of a size such as "200M", rounded down. InvalidInputError for "12", "12B", "-5M", "1.2.3M"."""
    match = _SIZE.fullmatch(text)
    try:
        if match is None or len(text) > _LONGEST:
            raise ValueError
        size = int(float(match[1]) * _FACTORS[match[2].lower()])
        if size > _MOST_BYTES:
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"invalid size {shorten(text)}: a number and one unit of K, M, G are wanted"
        ) from None
    return size


def cpu_quota(cpus: str) -> int:
    """Microseconds of CPU time in each CPU_PERIOD for a number of CPUs such as "1.5". Errors: InvalidInputError."""
    quota = round(float(cpus) * CPU_PERIOD) if _CPUS.fullmatch(cpus) else 0
    if quota < _LEAST_QUOTA:
        raise InvalidInputError(f"cpus {shorten(cpus)} is not a number of CPUs from 0.01 on, such as 1.5")
    return quota


def cpus_of(text: str) -> frozenset[int]:
    """The CPUs of a list as the kernel reads it: "0", "0-2,5". InvalidInputError for anything else."""
    found = 0  # a bit for each CPU: fast for long lists of wide ranges
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InvalidInputError(
                f"cpuset_cpus {shorten(text)} is not a list of CPUs, such as 0-2,5: {shorten(part)} is not a range"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        found |= (1 << last + 1) - (1 << first)
    return frozenset(number for number in range(found.bit_length()) if found >> number & 1)


def parse_signal(text: str) -> int:
    """The number of a signal; "" is SIGTERM. InvalidInputError with the original's text for others, such as "TERM"."""
    if not text:
        return int(DEFAULT_SIGNAL)
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
    """An exit code as text, with the signal of a code above 128."""
    name = signal_name(code - 128)
    return f"exit code {code} ({name})" if name.startswith("SIG") else f"exit code {code}"


def format_ns(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as Kanto writes times: 2026-11-23T18:39:26.49510863Z."""
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def now() -> str:
    """The wall clock's time for display and records; use the monotonic clock for intervals."""
    return format_ns(time.time_ns())


def sort_key(text: str) -> str:
    """A string that sorts by the time in *text*; texts of another form sort as they are."""
    match = _TIME.fullmatch(text)
    return f"{match[1]}.{match[2] or '':0<9}" if match else text
