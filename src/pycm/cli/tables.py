# SPDX-License-Identifier: Apache-2.0
"""Tables, sizes and JSON as pycm's own commands print them: as wide as the terminal, the same on every machine
elsewhere.
"""

from __future__ import annotations

import os
import sys

from pycm.errors import InvalidInputError
from pycm.flags import Flag, quote

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

TABLE, JSON = "table", "json"
FORMAT = Flag("format", default=TABLE, about="table or json", word="format")
NO_TRUNC = Flag("no-trunc", kind="bool", about="cut nothing off to fit the terminal")
_GAP = "  "
_NARROWEST = 8  # of a column that is cut
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def wants_json(text: str) -> bool:
    if text not in (TABLE, JSON):
        raise InvalidInputError(f"--format: {quote(text)} is neither {TABLE} nor {JSON}")
    return text == JSON


def json_line(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False) + "\n"


def json_list(values: Sequence[Any]) -> str:
    """A list, of which each item has a line of its own; "[]" if there are none."""
    import json

    items = ",\n".join(" " + json.dumps(value, ensure_ascii=False) for value in values)
    return f"[\n{items}\n]\n" if items else "[]\n"


def columns() -> int:
    """Of the terminal that stdout is; 0 if it is none, and nothing is to be cut."""
    return columns_of(sys.stdout)


def columns_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 0, right: str = "") -> str:
    """One line a row below the titles. *width*: the widest columns are cut to it, in their middle; *right*: "R" for
    each column of numbers, any other letter for text.
    """
    cells = [list(titles), *(list(map(_plain, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    while width and sum(widths) + len(_GAP) * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return "".join(_line(row, widths, right) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int], right: str) -> str:
    parts = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        text = _cut(cell, width)
        parts.append(text.rjust(width) if right[i : i + 1] == "R" else text.ljust(width))
    return _GAP.join(parts).rstrip() + "\n"


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return text[:head] + "…" + text[len(text) - (width - 1 - head) :]


def _plain(text: str) -> str:
    """No control characters of others on the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def size(number: float) -> str:
    """Bytes for people: 3 digits and a unit."""
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.3g} {unit}"
