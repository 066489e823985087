# SPDX-License-Identifier: Apache-2.0
"""Sizes as users write them: a decimal number, at most one blank, one unit of k, m, g in either case; 1k is 1024 bytes.

Shares and sets of CPUs, too.
"""

from __future__ import annotations

import re

from pycm.errors import InvalidInputError, shorten

_SIZE = re.compile(r"(\d+(?:\.\d+)*) ?([kKmMgG])", re.ASCII)
_FACTORS = {"k": 1024, "m": 1024**2, "g": 1024**3}
_LONGEST = 64
_CPUS = re.compile(r"\d{1,4}(?:\.\d{1,9})?", re.ASCII)
_CPU_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)
#: The most that containerd can be told.
_MOST_BYTES = 2**63 - 1
#: Microseconds in which a container may use its quota of CPU time; what runc and Docker use.
CPU_PERIOD = 100_000
#: The kernel takes no less.
_LEAST_QUOTA = 1_000


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
    """Microseconds of CPU time in each CPU_PERIOD for a number of CPUs such as "1.5". InvalidInputError for "0", "-1", "2 CPUs"."""
    quota = round(float(cpus) * CPU_PERIOD) if _CPUS.fullmatch(cpus) else 0
    if quota < _LEAST_QUOTA:
        raise InvalidInputError(f"cpus {shorten(cpus)} is not a number of CPUs from 0.01 on, such as 1.5")
    return quota


def cpus_of(text: str) -> frozenset[int]:
    """The CPUs of a list as the kernel reads it: "0", "0-2,5". InvalidInputError if it is none."""
    found = 0  # a bit for each: as quick for a long list of wide ranges
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InvalidInputError(
                f"cpuset_cpus {shorten(text)} is not a list of CPUs, such as 0-2,5: {shorten(part)} is none"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        found |= (1 << last + 1) - (1 << first)
    return frozenset(number for number in range(found.bit_length()) if found >> number & 1)
