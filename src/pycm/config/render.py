# SPDX-License-Identifier: Apache-2.0
"""The configuration in force as TOML that can be read back, without its secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pycm.config.types import Section, plain
from pycm.config.values import masked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.config.types import Config, Path

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def render_effective(config: Config) -> str:
    """Return what `--check-config` prints: every key, secrets as "***"."""
    return "\n".join(_section(config, ())).lstrip("\n") + "\n"


def _section(section: Section, path: Path) -> Iterator[str]:
    """The lines of a section: its own values first, as TOML requires, then the sections in it."""
    inner: list[tuple[str, Any]] = []
    lines: list[str] = []
    for name, member in section.MEMBERS.items():
        value = getattr(section, name)
        if isinstance(member, Section) or isinstance(value, Mapping):
            inner.append((name, value))
        else:
            lines.append(f"{name} = {toml_value(plain(member, masked(member, value)))}")
    yield from _table(path, lines)
    for name, value in inner:
        render = _section if isinstance(value, Section) else _mapping
        yield from render(value, (*path, name))


def _mapping(values: Mapping[str, Any], path: Path) -> Iterator[str]:
    """A table whose keys the user chose: of strings, or of sections."""
    strings = {key: value for key, value in values.items() if isinstance(value, str)}
    yield from _table(path, [f"{toml_key(key)} = {toml_value(value)}" for key, value in strings.items()])
    for key, value in values.items():
        if key not in strings:
            yield from _section(value, (*path, key))


def _table(path: Path, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"[{'.'.join(toml_key(part) for part in path)}]"
        yield from lines


def toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml_value(name)


def toml_value(value: Any) -> str:
    """A string, number, bool or list as TOML; JSON writes them the same way, except the DEL character and null."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()  # bytes of a command line that are not UTF-8
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return '""' if value is None else json.dumps(value)
