# SPDX-License-Identifier: Apache-2.0
"""A file's tree and the flags laid over the defaults: a Config, and what the user should be told about it. Pure."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.document import Document, located, merged_values
from pycm.config.flags import printable
from pycm.config.keys import ALIASES, BY_FLAG, DEPRECATED, Key, build, keys, members
from pycm.config.types import Config, Registry, Things
from pycm.config.values import read, show_raw
from pycm.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pycm.config.flags import Parsed
    from pycm.config.keys import Path

_MOST_NOTES = 20  # lines about one file; what is beyond is counted


class Note(NamedTuple):
    """A line for the log, once there is one. level: of logging."""

    level: int
    text: str


class Merged(NamedTuple):
    """given: paths of the keys that file or flags set."""

    config: Config
    notes: list[Note]
    given: frozenset[Path]


def merge(document: Document | None, parsed: Parsed) -> Merged:
    """Errors: ConfigError for what the file says, with its line, or for what a flag says."""
    values: dict[Path, Any] = {}
    notes: list[Note] = []
    if document is not None:
        reader = _FileReader(document, values)
        reader.section((), document.tree, Config)
        notes += reader.notes()
    for name in sorted(parsed.given & BY_FLAG.keys()):
        _take_flag(BY_FLAG[name], parsed.values[name], values, notes)
    notes += _take_deprecated(values)
    return Merged(build(values), notes, frozenset(values))


def _take_flag(key: Key, raw: Any, values: dict[Path, Any], notes: list[Note]) -> None:
    try:
        values[key.path], warning = read(key, raw)
    except InvalidInputError as error:
        raise ConfigError(f"--{key.option.flag}: {error}") from None
    if warning:
        notes.append(Note(logging.WARNING, f"--{key.option.flag}: {warning}"))


def _take_deprecated(values: dict[Path, Any]) -> Iterator[Note]:
    """Move what things.connection sets to [connection]. An empty string or 0 sets nothing, as in the original."""
    moved = []
    for key in DEPRECATED:
        value = values.pop(key.path, None)
        if value:
            values["connection", key.path[-1]] = value
            moved.append(key.path[-1])
    if moved:
        text = (
            f"things.connection is deprecated: {', '.join(moved)} win over [connection];"
            ' move them there, with times as durations such as "20s"'
        )
        yield Note(logging.WARNING, text)


class _FileReader:
    """One walk over a file's tree; fills *values*."""

    def __init__(self, document: Document, values: dict[Path, Any]) -> None:
        self.document = document
        self.values = values
        self.warnings: list[str] = []
        self.more = 0  # warnings beyond _MOST_NOTES
        for key in document.twice:
            self.warn((key,), "stands twice in one object; the last one counts")

    def notes(self) -> list[Note]:
        texts = list(self.warnings)
        if self.more:
            texts.append(f"{self.document.name}: {self.more} more warnings are left out")
        return [Note(logging.WARNING, text) for text in texts]

    def section(self, path: Path, raw: Any, record: Any) -> None:
        if not isinstance(raw, dict):
            raise self.no_table(path, raw)
        known = {name: (option, default) for name, option, default in members(record)}
        if record is Things:
            known["connection"] = (None, DEPRECATED)
        for name, (word, value) in self.matched(path, raw, known).items():
            option, default = known[name]
            if value is None:  # JSON's null: as if it were not there
                continue
            if option is None:
                self.section((*path, name), value, default)
            else:
                self.value(Key((*path, name), option, default), (*path, word), value)

    def matched(self, path: Path, raw: Mapping[str, Any], known: Iterable[str]) -> dict[str, tuple[str, Any]]:
        """Known key -> the word that the file has for it, and its value. Upper and lower case are the same, as in Go."""
        folded = {name.casefold(): name for name in known}
        found: dict[str, tuple[str, Any]] = {}
        for word, value in raw.items():
            name = folded.get(word.casefold()) or ALIASES.get((*path, word.casefold()))
            if name is None:
                self.warn_unknown((*path, word), folded)
                continue
            if name in found:
                self.warn((*path, word), "stands twice in other letters; the last one counts")
                found[name] = (word, merged_values(found[name][1], value))
            else:
                found[name] = (word, value)
        return found

    def value(self, key: Key, path: Path, raw: Any) -> None:
        if key.option.kind == "registries":
            self.registries(key.path, raw)
            return
        try:
            self.values[key.path], warning = read(key, raw)
        except InvalidInputError as error:
            raise self.error(path, str(error)) from None
        if warning:
            self.warn(path, warning)

    def registries(self, path: Path, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise self.no_table(path, raw)
        found = {}
        for host, value in raw.items():
            here = (*path, host)
            if not host.strip():
                self.warn(path, "an entry without a host name is left out")
            elif value is not None:
                self.section(here, value, Registry)
                found[host] = build(self.values, Registry, here)
        self.values[path] = MappingProxyType(found)

    def warn_unknown(self, path: Path, known: Mapping[str, str]) -> None:
        if len(self.warnings) >= _MOST_NOTES:  # the search for a near one is work
            self.more += 1
            return
        from difflib import get_close_matches  # slow to import, and only needed here

        near = get_close_matches(path[-1].casefold()[:100], known, 1)
        guess = ".".join((*path[:-1], known[near[0]])) if near else _elsewhere(path[-1])
        self.warn(path, "this key is not known" + (f"; is {printable(guess)} meant?" if guess else ""))

    def warn(self, path: Path, reason: str) -> None:
        if len(self.warnings) < _MOST_NOTES:
            self.warnings.append(str(self.error(path, reason)))
        else:
            self.more += 1

    def no_table(self, path: Path, raw: Any) -> ConfigError:
        return self.error(path, f"{show_raw(raw)} is not {'an object' if self.document.json else 'a table'}")

    def error(self, path: Path, reason: str) -> ConfigError:
        name = printable(".".join(path))
        return located(self.document.name, self.document.line(path), f"{name}: {reason}")


def _elsewhere(word: str) -> str:
    """The key of this name in any section; "" if there is none."""
    return next((key.name for key in keys() if key.path[-1] == word.casefold()), "")
