# SPDX-License-Identifier: Apache-2.0
"""Pieces of JSON in a file that should be TOML: recognised, and shown as the TOML lines to write instead.

Pages about Kanto show settings as `"things": { "enable": true }`, and people paste that into config.toml.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pycm.config.keys import ALIASES, BY_FLAG
from pycm.config.render import toml_key, toml_value
from pycm.config.values import MASK

_KEY = re.compile(r'[ \t\r\n,]*"([\w-]{1,64})"[ \t\r\n]*:[ \t\r\n]*')
_LONGEST = 64 * 1024  # characters of a piece; longer ones are not converted
_LONGEST_ANSWER = 4096  # characters: more than a screen helps nobody
_SECRETS = frozenset(key.path[-1] for key in BY_FLAG.values() if key.option.hide) | {"password"}


def is_json(text: str) -> bool:
    """True for JSON that is no object, such as a list: nobody's configuration."""
    if len(text) > _LONGEST:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def as_toml(text: str, line: int) -> str:
    """The JSON members that begin on *line* of *text* as TOML; "" if there are none. Secrets are masked."""
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    blocks: list[str] = []
    try:
        for key, value in _members(text[start : start + _LONGEST]).items():
            _add(blocks, (key,), value)
    except RecursionError:
        return ""
    text = "\n\n".join(blocks)
    return text if len(text) <= _LONGEST_ANSWER else ""


def _members(text: str) -> dict[str, Any]:
    """The leading `"key": value` pairs."""
    found: dict[str, Any] = {}
    position = 0
    while match := _KEY.match(text, position):
        try:
            found[match.group(1)], position = json.JSONDecoder().raw_decode(text, match.end())
        except ValueError:
            break
    return found


def _add(blocks: list[str], path: tuple[str, ...], value: Any) -> None:
    if not isinstance(value, dict):
        blocks.append(_assignment(path, value))
        return
    own = [_assignment((*path, key), item) for key, item in value.items() if not isinstance(item, dict)]
    if own:
        blocks.append("\n".join([f"[{'.'.join(toml_key(part) for part in path)}]", *own]))
    for key, item in value.items():
        if isinstance(item, dict):
            _add(blocks, (*path, key), item)


def _assignment(path: tuple[str, ...], value: Any) -> str:
    name = ALIASES.get(path, path[-1])
    return f"{toml_key(name)} = {toml_value(MASK if name in _SECRETS else value)}"
