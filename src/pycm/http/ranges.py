# SPDX-License-Identifier: Apache-2.0
"""Parts of a file: how they are asked for, and what an answer says it holds. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def range_header(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def begins_at(status: int, headers: Mapping[str, str] | Message, offset: int, size: int) -> int:
    """The offset of the first byte of an answer to a request for what follows *offset* of *size* bytes.

    0 where the server does not do parts. OperationFailedError if what it says it sends is not of that size or place.
    """
    if status != 206:
        length = headers.get("Content-Length")
        if length is not None and length.strip() != str(size):
            raise OperationFailedError(f"it has {shorten(length)} bytes at the server, {size} are expected")
        return 0
    text = headers.get("Content-Range") or ""
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found or int(found[1]) != offset or found[3] not in ("*", str(size)):
        raise OperationFailedError(
            f"bytes {offset} to {size} were asked for, the server sends {shorten(text) if text else 'others'}"
        )
    return offset
