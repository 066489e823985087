# SPDX-License-Identifier: Apache-2.0
"""The command line and the configuration file to a Config.

Flags win over the file, the file over the defaults. Nothing is printed or logged here: warnings and errors are Notes,
since the log does not exist yet. An error in the configuration of one function disables that function, or leaves its
default, and becomes a Note of level ERROR. A ConfigError ends the start.
"""

from __future__ import annotations

import logging
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.document import Document, located, merged_values
from pycm.config.document import parse as parse_document
from pycm.config.types import (
    BY_FLAG,
    DEPRECATED,
    Config,
    Key,
    Registry,
    Section,
    build,
    consequence,
    keys,
    plain,
)
from pycm.config.values import check_entries, check_network, read, show_raw
from pycm.errors import ConfigError, InvalidInputError
from pycm.flags import HELP, Flag, printable, quote
from pycm.flags import parse as parse_flags
from pycm.model.frozen import replace
from pycm.storage.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pycm.config.types import Containers, Path
    from pycm.flags import Parsed

ETC = "/etc/container-management"
#: In the order of preference.
NAMES = ("config.toml", "config.json")
#: A configuration has a few KiB; a larger file is the wrong one.
MAX_FILE = 1024 * 1024
_MOST_NOTES = 20  # lines about one file, of warnings and of errors; those beyond are counted
#: Keys that are also known by another name: path of the section and that name -> the key.
_ALIASES: dict[Path, str] = {("things", "enabled"): "enable"}

CFG_FILE = Flag("cfg-file", about="configuration file, TOML or JSON")
CHECK = Flag("check-config", kind="bool", about="print the effective configuration and exit")
VERSION = Flag("version", kind="bool", about="print the version and exit")
#: kind of a Key -> kind of its Flag, if they differ. Durations are strings as in the original: a bad one is a warning.
_FLAG_KINDS = {"duration": "string", "stop_timeout": "string", "size": "string", "milliseconds": "int"}
FLAGS = (
    *(
        Flag(name, "", _FLAG_KINDS.get(key.kind, key.kind), plain(key, key.default), key.about)
        for name, key in BY_FLAG.items()
    ),
    CFG_FILE,
    CHECK,
    VERSION,
    HELP,
)


class Note(NamedTuple):
    """A line for the log, once it is open. level: of logging."""

    level: int
    text: str


class Loaded(NamedTuple):
    """path: the file that was read, "" if none; check: --check-config was given."""

    config: Config
    notes: tuple[Note, ...]
    path: str
    check: bool


class Source(NamedTuple):
    """Where the configuration came from (`path`, "" for no file), and how to read it again. Errors: see load_parsed."""

    path: str
    read: Callable[[], Config]


def source_of(loaded: Loaded, parsed: Parsed, *, etc: str = ETC) -> Source:
    return Source(loaded.path, lambda: _read_again(parsed, etc))


def _read_again(parsed: Parsed, etc: str) -> Config:
    """For settings of MQTT that may change while the agent runs: an error in them is a ConfigError."""
    loaded = load_parsed(parsed, etc=etc)
    if loaded.config.things.enable:
        return loaded.config
    errors = [note.text for note in loaded.notes if note.level >= logging.ERROR]
    raise ConfigError("; ".join(errors) or "things.enable is false")


def load(argv: Sequence[str], *, etc: str = ETC) -> Loaded:
    """*argv*: without the program's name. Errors: InvalidInputError for the line, ConfigError for file and values."""
    return load_parsed(parse_line(argv), etc=etc)


def parse_line(argv: Sequence[str]) -> Parsed:
    parsed = parse_flags(FLAGS, argv)
    if parsed.rest:
        raise InvalidInputError(f'unknown command {quote(parsed.rest[0])} for "container-management"')
    return parsed


def load_parsed(parsed: Parsed, *, etc: str = ETC) -> Loaded:
    path, notes = _find(parsed, etc)
    document = _read(path, notes) if path else None
    config, more = merge(document, parsed)
    notes += more
    if not config.network.default_bridge.disable:
        try:
            check_network(config.network)
        except ConfigError as error:
            config, reason = degraded(config, ("network",), str(error))
            notes.append(Note(logging.ERROR, reason))
    notes += _not_yet(config)
    return Loaded(config, tuple(notes), path, parsed.values[CHECK.name])


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find(parsed: Parsed, etc: str) -> tuple[str, list[Note]]:
    """The file to read, "" for none. A file that the line names must exist, the usual ones need not."""
    named: str = parsed.values[CFG_FILE.name]
    if named:
        return named, []
    paths = [os.path.join(etc, name) for name in NAMES]
    # a dangling link counts: defaults must not silently replace what somebody wrote
    found = [path for path in paths if os.path.lexists(path)]
    if not found:
        return "", [Note(logging.INFO, f"no configuration file in {etc}: using flags and defaults")]
    if len(found) == 1:
        return found[0], []
    text = f"{found[0]} is read, {found[1]} is not: remove one of the two"
    return found[0], [Note(logging.WARNING, text)]


def _read(path: str, notes: list[Note]) -> Document:
    name = printable(path)
    try:
        data = read_regular(path, MAX_FILE + 1, follow=True)
    except OSError as error:
        hint = "Check --cfg-file." if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"cannot read the configuration file {name}: {error.strerror}", hint=hint) from None
    except ValueError:
        reason = "the name has a NUL character"
        raise ConfigError(f"cannot read the configuration file {name}: {reason}") from None
    if len(data) > MAX_FILE:
        text = f"the configuration file {name} is larger than {MAX_FILE} bytes"
        raise ConfigError(text, hint="Check --cfg-file: this is probably another file.")
    document = parse_document(data, name)
    if document.text.strip():
        notes.append(Note(logging.INFO, f"configuration read from {name}"))
    else:
        text = f"the configuration file {name} is empty: using flags and defaults"
        notes.append(Note(logging.WARNING, text))
    return document


# ── file and flags over the defaults ────────────────────────────────────────────────────────────────────────────────


def merge(document: Document | None, parsed: Parsed) -> tuple[Config, list[Note]]:
    """Pure. Errors: ConfigError for what the agent cannot do without, with the line in the file, or the flag."""
    values: dict[Path, Any] = {}
    notes: list[Note] = []
    faults: list[tuple[Path, str]] = []
    if document is not None:
        reader = _FileReader(document, values)
        reader.section((), document.tree, Config.MEMBERS)
        notes += reader.notes()
        faults = reader.faults
    for name in sorted(parsed.given & BY_FLAG.keys()):
        key = BY_FLAG[name]
        try:
            values[key.path], warning = read(key, parsed.values[name])
        except InvalidInputError as reason:
            faults.append((key.path, f"--{name}: {reason}"))
            continue
        if warning:
            notes.append(Note(logging.WARNING, f"--{name}: {warning}"))
    notes += _take_deprecated(values)
    config: Config = build(values)
    errors: list[str] = []
    for path, fault in faults:
        config, error = degraded(config, path, fault)
        errors.append(error)
    if len(errors) > _MOST_NOTES:
        errors[_MOST_NOTES:] = [f"{len(errors) - _MOST_NOTES} more errors are not shown"]
    return config, notes + [Note(logging.ERROR, error) for error in errors]


def degraded(config: Config, path: Path, reason: str) -> tuple[Config, str]:
    """Return *config* without what an error at *path* disables, and the error with its consequence.

    ConfigError if the agent must end.
    """
    then = consequence(path)
    if then is None:
        raise ConfigError(reason)
    for where, value in then.values.items():
        config = _with(config, where, value)
    return config, f"{reason} ({then.text})"


def _with(section: Any, path: Path, value: Any) -> Any:
    name, *rest = path
    return replace(section, **{name: _with(getattr(section, name), tuple(rest), value) if rest else value})


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
    """One walk over a file's tree, which fills *values*. `faults`: paths of errors, and their texts."""

    def __init__(self, document: Document, values: dict[Path, Any]) -> None:
        self.document = document
        self.values = values
        self.faults: list[tuple[Path, str]] = []
        self.warnings: list[str] = []
        self.more = 0  # warnings beyond _MOST_NOTES
        for key in document.repeated:
            self.warn((key,), "occurs twice in one object; the last one counts")

    def notes(self) -> list[Note]:
        texts = list(self.warnings)
        if self.more:
            texts.append(f"{self.document.name}: {self.more} more warnings are not shown")
        return [Note(logging.WARNING, text) for text in texts]

    def section(self, path: Path, raw: Any, known: Mapping[str, Any]) -> None:
        """Read *raw* as a section whose members are *known*: Keys, Sections, or members of one."""
        if not isinstance(raw, dict):
            self.not_a_table(path, raw)
            return
        if path == ("things",):
            known = {**known, "connection": {key.path[-1]: key for key in DEPRECATED}}
        for name, (word, value) in self.matched(path, raw, known).items():
            member, here = known[name], (*path, name)
            if value is None:  # JSON's null: as if the key were absent
                continue
            if isinstance(member, Key):
                self.value(member._replace(path=here), (*path, word), value)
            else:
                self.section(here, value, member.MEMBERS if isinstance(member, Section) else member)

    def matched(self, path: Path, raw: Mapping[str, Any], known: Iterable[str]) -> dict[str, tuple[str, Any]]:
        """Known key -> the word in the file for it, and its value. Keys are case-insensitive, as in Go."""
        folded = {name.casefold(): name for name in known}
        found: dict[str, tuple[str, Any]] = {}
        for word, value in raw.items():
            name = folded.get(word.casefold()) or _ALIASES.get((*path, word.casefold()))
            if name is None and path == ("things", "policy"):  # a misspelt ban must not become a permission
                self.fault(path, (*path, word), "this key is not known")
            elif name is None:
                self.warn_unknown((*path, word), folded)
            elif name in found:
                self.warn((*path, word), "occurs twice in other letters; the last one counts")
                found[name] = (word, merged_values(found[name][1], value))
            else:
                found[name] = (word, value)
        return found

    def value(self, key: Key, path: Path, raw: Any) -> None:
        if key.kind == "registries":
            self.registries(key.path, raw)
            return
        try:
            self.values[key.path], warning = read(key, raw)
        except InvalidInputError as error:
            self.fault(key.path, path, str(error))
            return
        if warning:
            self.warn(path, warning)

    def registries(self, path: Path, raw: Any) -> None:
        if not isinstance(raw, dict):
            self.not_a_table(path, raw)
            return
        try:
            check_entries(raw)
        except InvalidInputError as error:
            self.fault(path, path, str(error))
            return
        found = {}
        for host, value in raw.items():
            here = (*path, host)
            if not host.strip():
                self.warn(path, "an entry without a host name is ignored")
            elif value is not None:
                before = len(self.faults)
                self.section(here, value, Registry.MEMBERS)
                registry: Registry = build(self.values, Registry, here)
                usable = len(self.faults) == before
                found[host] = registry if usable else replace(registry, usable=False)
        self.values[path] = MappingProxyType(found)

    def warn_unknown(self, path: Path, known: Mapping[str, str]) -> None:
        if len(self.warnings) >= _MOST_NOTES:  # searching for similar keys is work
            self.more += 1
            return
        from difflib import get_close_matches  # slow to import, and only needed here

        word = path[-1].casefold()
        near = get_close_matches(word[:100], known, 1)
        elsewhere = next((key.name for key in keys() if key.path[-1] == word), "")
        guess = ".".join((*path[:-1], known[near[0]])) if near else elsewhere
        self.warn(path, "this key is not known" + (f"; is {printable(guess)} meant?" if guess else ""))

    def warn(self, path: Path, reason: str) -> None:
        if len(self.warnings) < _MOST_NOTES:
            self.warnings.append(self.located(path, reason))
        else:
            self.more += 1

    def fault(self, key: Path, path: Path, reason: str) -> None:
        self.faults.append((key, self.located(path, reason)))

    def not_a_table(self, path: Path, raw: Any) -> None:
        kind = "an object" if self.document.json else "a table"
        self.fault(path, path, f"{show_raw(raw)} is not {kind}")

    def located(self, path: Path, reason: str) -> str:
        name = printable(".".join(path))
        return str(located(self.document.name, self.document.line(path), f"{name}: {reason}"))


# ── what this version cannot do yet ─────────────────────────────────────────────────────────────────────────────────

_NOT_YET = "has no effect: this version has no"


def _not_yet(config: Config) -> Iterator[Note]:
    """One line for each feature that the configuration asks for and this version lacks; defaults ask for nothing."""
    if config.update_agent.enable:
        yield Note(logging.WARNING, f"update_agent.enable {_NOT_YET} update agent")
    yield from _refusing(config.containers)
    if config.network.default_bridge.enable_ip6:
        yield Note(logging.WARNING, f"network.default_bridge.enable_ip6 {_NOT_YET} IPv6 on the bridge")


def _refusing(containers: Containers) -> Iterator[Note]:
    """Settings for images that this version cannot honour refuse every container, which the start announces."""
    for asked, key, lack in (
        (containers.image_verifier_type not in ("", "none"), "image_verifier_type", "check signatures"),
        (containers.image_dec_keys, "image_dec_keys", "decrypt images"),
        (containers.image_dec_recipients, "image_dec_recipients", "decrypt images"),
    ):
        if asked:
            text = (
                f"containers.{key} is set and this version cannot {lack}: no container is created or started"
            )
            yield Note(logging.WARNING, text)
