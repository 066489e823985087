# SPDX-License-Identifier: Apache-2.0
"""When to ask again: which answers pass, how long to wait. Pure but for the clock of Retry-After dates."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

#: Answers that may be others a moment later.
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
FIRST_DELAY, LAST_DELAY = 0.5, 20.0
#: A server that wants to be left alone for longer than this is taken at its word: the request fails and says so.
LONGEST_WAIT = 60.0
#: Attempts in a row that may bring nothing.
ATTEMPTS = 6


def delay(attempt: int, asked: float | None = None) -> float:
    """Seconds before attempt number *attempt* (the first repetition is 1), at least what the server *asked* for."""
    doubled: float = min(FIRST_DELAY * 2.0 ** (attempt - 1), LAST_DELAY) * random.uniform(0.5, 1)
    return max(doubled, asked or 0.0)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None if there is none that can be read."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:12])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
