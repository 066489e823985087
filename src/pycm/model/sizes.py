# SPDX-License-Identifier: Apache-2.0
"""Sizes as users write them: a decimal number, at most one blank, one unit of k, m, g in either case; 1k is 1024 bytes."""

from __future__ import annotations

import re

from pycm.errors import InvalidInputError, shorten

_SIZE = re.compile(r"(\d+(?:\.\d+)*) ?([kKmMgG])", re.ASCII)
_FACTORS = {"k": 1024, "m": 1024**2, "g": 1024**3}


def size_to_bytes(text: str) -> int:
    """Bytes of a size such as "200M", rounded down. InvalidInputError for "12", "12B", "-5M", "1.2.3M"."""
    match = _SIZE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return int(float(match[1]) * _FACTORS[match[2].lower()])
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"invalid size {shorten(text)}: a number and one unit of K, M, G are wanted"
        ) from None
