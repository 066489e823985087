# SPDX-License-Identifier: Apache-2.0
"""The text of a configuration file as a tree of plain values, and the line of each key. TOML or JSON, which the content
shows.

Pure: bytes in, a Document or a ConfigError with the line out, whatever the bytes are.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pycm.errors import ConfigError, InvalidInputError
from pycm.flags import printable
from pycm.model import gojson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycm.config.types import Path

_BLANK = " \t\r\n"
_DEEPEST = 8  # sections of a path that are looked for: no known key lies deeper than 5
_NESTING = 500  # of a JSON file; what is unknown in it may be deep


class Document:
    """name: of the file; tree: its values; json: whether it is JSON; repeated: keys that an object of it has twice."""

    def __init__(
        self, name: str, text: str, tree: dict[str, Any], *, json: bool = False, repeated: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.text = text
        self.tree = tree
        self.json = json
        self.repeated = repeated

    @cached_property
    def _places(self) -> dict[Path, int]:
        return _json_places(self.text) if self.json else _toml_places(self.text)

    def line(self, path: Path) -> int:
        """The line of the key, or else of the nearest section around it; 0 if not found. Upper and lower case are the
        same.
        """
        folded = tuple(part.casefold() for part in path)
        while folded:
            if folded in self._places:
                return self._places[folded]
            folded = folded[:-1]
        return 0


def parse(data: bytes, name: str) -> Document:
    """Errors: ConfigError, with file, line and reason."""
    text = _decode(data, name)
    if not text.strip(_BLANK):
        return Document(name, text, {})
    if text.lstrip(_BLANK).startswith("{"):
        return _parse_json(text, name)
    return Document(name, text, _parse_toml(text, name))


def located(name: str, line: int, reason: str, hint: str = "") -> ConfigError:
    return ConfigError(f"{name}, line {line}: {reason}" if line else f"{name}: {reason}", hint=hint)


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise located(name, line, f"not UTF-8 text: byte 0x{byte:02x}", "Save the file as UTF-8.") from None


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parse_json(text: str, name: str) -> Document:
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                repeated.append(key)
            found[key] = merged_values(found.get(key), value)
        return found

    try:
        tree = gojson.read(text, depth=_NESTING, pairs=pairs)
    except gojson.JsonError as error:
        column = f" (column {error.column})" if error.column else ""
        raise located(name, error.line, f"not valid JSON: {error.reason}{column}") from None
    except InvalidInputError as error:
        raise located(name, 0, f"not valid JSON: {error}") from None
    return Document(name, text, tree, json=True, repeated=repeated)


def merged_values(earlier: Any, later: Any) -> Any:
    """A section given twice counts as one, as in the original; of two values the last."""
    if not (isinstance(earlier, dict) and isinstance(later, dict)):
        return later
    for key, value in later.items():
        earlier[key] = merged_values(earlier.get(key), value)
    return earlier


_JSON_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:\n]')


def _json_places(text: str) -> dict[Path, int]:
    """Path of every key that may be known -> its line. The text has been parsed, so it is well-formed."""
    places: dict[Path, int] = {}
    stack: list[str] = []
    line, last = 1, ""
    for match in _JSON_TOKENS.finditer(text):
        found = match.group()
        if found == "\n":
            line += 1
        elif found == ":":
            stack[-1] = (json.loads(last) if "\\" in last else last[1:-1]).casefold()
            if len(stack) <= _DEEPEST:
                places[tuple(stack)] = line
        elif found in "{[":
            stack.append("")
        elif found in "}]":
            stack.pop()
        else:
            last = found
    return places


# ── TOML ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#: A member of a JSON object at the begin of a line: pages about Kanto show settings so, and people paste them into TOML
# files.
_MEMBER = re.compile(r'[\s,]*"[\w-]{1,64}"\s*:')
_FRAGMENT = (
    "A JSON file has { and } around everything. In TOML, "
    '"things": {"enable": true} is [things] and, on the next line, enable = true.'
)
_AT_LINE = re.compile(r" ?\(at line (\d+), column \d+\)$")
_AT_END = re.compile(r" ?\(at end of document\)$")


def _toml_loads() -> Callable[[str], dict[str, Any]]:
    """The reader of the standard library, or of tomli on Python 3.10; imported only if the file is TOML."""
    if sys.version_info >= (3, 11):
        from tomllib import loads
    else:
        from tomli import loads
    return loads


#: The time of parsers grows with the square of a key's parts: 1 MiB of "a.a.a" would take hours.
_MOST_PARTS = 64
_DOTTED = re.compile(r"""(?:\.[ \t]*[\w"'-]+[ \t]*)+""")


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    for match in _DOTTED.finditer(text):
        if match.group().count(".") >= _MOST_PARTS:
            line = text.count("\n", 0, match.start()) + 1
            raise located(name, line, f"not valid: a key of more than {_MOST_PARTS} parts")
    try:
        return _toml_loads()(text)
    except ValueError as error:  # TOMLDecodeError is one; others come from dates and digits out of range
        raise _toml_error(text, name, str(error)) from None
    except RecursionError:
        raise located(name, 0, "not valid TOML: nested too deep") from None


def _toml_error(text: str, name: str, message: str) -> ConfigError:
    line = _error_line(text, message)
    if _is_json(text):
        hint = 'A JSON file begins with "{", a TOML file with a [section].'
        return located(name, 1, "neither TOML nor a JSON object", hint)
    if line and _MEMBER.match(text.split("\n")[line - 1]):
        return located(name, line, "this is a piece of JSON in a TOML file", _FRAGMENT)
    reason = _AT_END.sub("", _AT_LINE.sub("", message))
    return located(name, line, f"not valid TOML: {printable(reason)}")


def _is_json(text: str) -> bool:
    """True for JSON that is not an object, such as a list."""
    try:
        gojson.read(text)
    except InvalidInputError:
        return False
    return True


def _error_line(text: str, message: str) -> int:
    match = _AT_LINE.search(message)
    if match:
        return int(match.group(1))
    return text.rstrip(_BLANK).count("\n") + 1 if _AT_END.search(message) else 0


_HEADER = re.compile(r"\s*\[\[?([^\]]*)\]")
_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_PARTS = re.compile(_PART)
_ASSIGNMENT = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def _toml_places(text: str) -> dict[Path, int]:
    """Path of every section and of every key that begins a line -> its line."""
    places: dict[Path, int] = {}
    section: Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        header, key = _HEADER.match(line), _ASSIGNMENT.match(line)
        if header:
            section = _parts(header.group(1))
            places.setdefault(section, number)
        elif key:
            path = (*section, *_parts(key.group(1)))[:_DEEPEST]
            for length in range(len(section) + 1, len(path) + 1):
                places.setdefault(path[:length], number)
    return places


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'").casefold() for part in _PARTS.findall(dotted)[:_DEEPEST])
