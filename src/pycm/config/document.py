# SPDX-License-Identifier: Apache-2.0
"""The text of a configuration file to a tree of plain values, TOML or JSON by what it looks like, and back to the line of a key.

Pure: bytes in, a Document or a ConfigError with the line out, whatever the bytes are.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pycm.errors import ConfigError
from pycm.flags import printable
from pycm.model.gojson import without_surrogates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycm.config.keys import Path

_BLANK = " \t\r\n"
_DEEPEST = 8  # sections of a path that are looked for: no known key lies deeper than 5


class Document:
    """name: of the file; tree: its values; json: it is JSON; twice: names of keys that stand twice in one object."""

    def __init__(
        self, name: str, text: str, tree: dict[str, Any], *, json: bool = False, twice: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.text = text
        self.tree = tree
        self.json = json
        self.twice = twice

    @cached_property
    def _places(self) -> dict[Path, int]:
        return _json_places(self.text) if self.json else _toml_places(self.text)

    def line(self, path: Path) -> int:
        """Where the key stands, or else the nearest section around it; 0 if not found. Upper and lower case are the same."""
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


def located(name: str, line: int, reason: str) -> ConfigError:
    return ConfigError(f"{name}, line {line}: {reason}" if line else f"{name}: {reason}")


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise located(name, line, f"not UTF-8 text: byte 0x{byte:02x}; save the file as UTF-8") from None


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parse_json(text: str, name: str) -> Document:
    twice: list[str] = []
    try:
        tree = _loads(text, twice)
    except json.JSONDecodeError as error:
        raise located(name, error.lineno, f"not valid JSON: {error.msg} (column {error.colno})") from None
    except ValueError as error:  # NaN, or more digits than Python takes
        raise located(name, 0, f"not valid JSON: {printable(str(error))}") from None
    except RecursionError:
        raise located(name, 0, "not valid JSON: nested too deep") from None
    assert isinstance(tree, dict)
    return Document(name, text, tree, json=True, twice=twice)


def _loads(text: str, twice: list[str]) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                twice.append(key)
            found[key] = merged_values(found.get(key), value)
        return found

    return without_surrogates(json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant), text)


def merged_values(earlier: Any, later: Any) -> Any:
    """A section given twice counts as one, as in the original; of two values the last."""
    if not (isinstance(earlier, dict) and isinstance(later, dict)):
        return later
    for key, value in later.items():
        earlier[key] = merged_values(earlier.get(key), value)
    return earlier


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


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

_FRAGMENT = (
    "this is a piece of JSON; a JSON file has { and } around everything, in a TOML file it is written as\n\n"
)
_AT_LINE = re.compile(r" ?\(at line (\d+), column \d+\)$")
_AT_END = re.compile(r" ?\(at end of document\)$")


def _toml_loads() -> Callable[[str], dict[str, Any]]:
    """From the standard library, or on Python 3.10 from tomli; imported only for those who use TOML."""
    if sys.version_info >= (3, 11):
        from tomllib import loads
    else:
        from tomli import loads
    return loads


#: Parsers take time with the square of a key's parts: 1 MiB of "a.a.a" would be hours.
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
    from pycm.config.fragment import as_toml, is_json

    line = _error_line(text, message)
    if is_json(text):
        return located(
            name, 1, 'neither TOML nor a JSON object: JSON must begin with "{", TOML with a [section]'
        )
    reason = _AT_END.sub("", _AT_LINE.sub("", message))
    lines = as_toml(text, line)
    if not lines:
        return located(name, line, f"not valid TOML: {printable(reason)}")
    return located(name, line, _FRAGMENT + lines)


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
