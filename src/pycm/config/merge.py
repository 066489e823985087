# SPDX-License-Identifier: Apache-2.0
"""A file's tree and the flags laid over the defaults: a Config, and what the user should be told about it. Pure.

An error in the configuration of one function disables that function, or leaves its default, and becomes a Note of level ERROR.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.document import Document, located, merged_values
from pycm.config.keys import ALIASES, BY_FLAG, DEPRECATED, Key, build, keys, members
from pycm.config.types import MOST_ENTRIES, SOCKET, Config, DefaultBridge, Registry, Things
from pycm.config.values import read, show_raw
from pycm.errors import ConfigError, InvalidInputError
from pycm.flags import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pycm.config.keys import Path
    from pycm.flags import Parsed

_MOST_NOTES = 20  # lines about one file, of warnings and of errors; what is beyond is counted


class Consequence(NamedTuple):
    """What follows from an error: in words, and in values that are laid over."""

    text: str
    values: Mapping[Path, Any]


_DEFAULT = Consequence("the default is used", {})
_REFUSED = Consequence("pulls from this registry are refused", {})
_NO_EXPIRY = Consequence("unused images are kept", {("containers", "image_expiry_disable"): True})
_REGISTRIES = ("containers", "registry_configurations")
#: Of an error in each part of the configuration; the longest path that fits counts. What is not listed says where the containers are:
#: without it the agent would manage others, or none, so it ends.
CONSEQUENCES: dict[Path, Consequence] = {
    ("log",): _DEFAULT,
    ("deployment",): Consequence("deployment is disabled", {("deployment", "enable"): False}),
    ("manager", "container_client_sid"): _DEFAULT,
    ("manager", "network_manager_sid"): _DEFAULT,
    ("manager", "default_ctrs_stop_timeout"): _DEFAULT,
    ("manager", "live_restore"): _DEFAULT,
    _REGISTRIES: _DEFAULT,
    ("containers", "insecure_registries"): _DEFAULT,
    ("containers", "image_dec_keys"): _DEFAULT,
    ("containers", "image_dec_recipients"): _DEFAULT,
    ("containers", "runc_runtime"): _DEFAULT,
    ("containers", "runc_binary"): _DEFAULT,
    ("containers", "seccomp_profile"): _DEFAULT,
    ("containers", "log_total_max_size"): _DEFAULT,
    ("containers", "image_expiry"): _NO_EXPIRY,
    ("containers", "image_expiry_disable"): _NO_EXPIRY,
    ("containers", "preload_dir"): _DEFAULT,
    ("containers", "lease_id"): _DEFAULT,
    # nobody knows which images were to be refused
    ("containers", "image_verifier_type"): Consequence(
        "no container is created or started",
        {("containers", "image_verifier_type"): "unknown"},
    ),
    ("containers", "image_verifier_config"): _DEFAULT,
    ("network",): Consequence(
        "network mode bridge is disabled",
        {("network", "default_bridge"): DefaultBridge(disable=True)},
    ),
    ("network", "type"): _DEFAULT,
    ("network", "home_dir"): _DEFAULT,
    ("grpc_server",): Consequence(
        "the API listens at its default address",
        {("grpc_server", "protocol"): "unix", ("grpc_server", "address_path"): SOCKET},
    ),
    ("things",): Consequence("the digital twin is disabled", {("things", "enable"): False}),
    ("update_agent",): Consequence("the update agent is disabled", {("update_agent", "enable"): False}),
    ("connection",): Consequence(
        "MQTT is disabled: no digital twin, no update agent",
        {("things", "enable"): False, ("update_agent", "enable"): False},
    ),
}


class Note(NamedTuple):
    """A line for the log, once there is one. level: of logging."""

    level: int
    text: str


class Merged(NamedTuple):
    """given: paths of the keys that file or flags set."""

    config: Config
    notes: list[Note]
    given: frozenset[Path]


def degraded(config: Config, path: Path, reason: str) -> tuple[Config, str]:
    """*config* without what an error at *path* disables, and the error with what follows from it. ConfigError if the agent must end."""
    then = consequence(path)
    if then is None:
        raise ConfigError(reason)
    for where, value in then.values.items():
        config = _with(config, where, value)
    return config, f"{reason} ({then.text})"


def consequence(path: Path) -> Consequence | None:
    """None: the agent ends."""
    if path[:2] == _REGISTRIES and len(path) > 2:  # one of them
        return _REFUSED
    fitting = (path[:length] for length in range(len(path), 0, -1) if path[:length] in CONSEQUENCES)
    return CONSEQUENCES.get(next(fitting, ()))


def _with(record: Any, path: Path, value: Any) -> Any:
    name, *rest = path
    return replace(record, **{name: _with(getattr(record, name), tuple(rest), value) if rest else value})


def merge(document: Document | None, parsed: Parsed) -> Merged:
    """Errors: ConfigError for what the agent cannot do without, with the line in the file, or the flag."""
    values: dict[Path, Any] = {}
    notes: list[Note] = []
    faults: list[tuple[Path, str]] = []
    if document is not None:
        reader = _FileReader(document, values)
        reader.section((), document.tree, Config)
        notes += reader.notes()
        faults = reader.faults
    for name in sorted(parsed.given & BY_FLAG.keys()):
        _take_flag(BY_FLAG[name], parsed.values[name], values, notes, faults)
    notes += _take_deprecated(values)
    config = build(values)
    errors: list[str] = []
    for path, reason in faults:
        config, error = degraded(config, path, reason)
        errors.append(error)
    if len(errors) > _MOST_NOTES:
        errors[_MOST_NOTES:] = [f"{len(errors) - _MOST_NOTES} more errors are not shown"]
    notes += [Note(logging.ERROR, error) for error in errors]
    return Merged(config, notes, frozenset(values))


def _take_flag(
    key: Key, raw: Any, values: dict[Path, Any], notes: list[Note], faults: list[tuple[Path, str]]
) -> None:
    try:
        values[key.path], warning = read(key, raw)
    except InvalidInputError as error:
        faults.append((key.path, f"--{key.option.flag}: {error}"))
        return
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
    """One walk over a file's tree; fills *values*. `faults`: paths and texts of what is wrong."""

    def __init__(self, document: Document, values: dict[Path, Any]) -> None:
        self.document = document
        self.values = values
        self.faults: list[tuple[Path, str]] = []
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
            self.no_table(path, raw)
            return
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
            if name is None and path == ("things", "policy"):  # what was to be denied must not be allowed
                self.faults.append((path, str(self.error((*path, word), "this key is not known"))))
                continue
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
            self.faults.append((key.path, str(self.error(path, str(error)))))
            return
        if warning:
            self.warn(path, warning)

    def registries(self, path: Path, raw: Any) -> None:
        if not isinstance(raw, dict):
            self.no_table(path, raw)
            return
        if len(raw) > MOST_ENTRIES:
            reason = f"it has {len(raw)} entries; at most {MOST_ENTRIES} are allowed"
            self.faults.append((path, str(self.error(path, reason))))
            return
        found = {}
        for host, value in raw.items():
            here = (*path, host)
            if not host.strip():
                self.warn(path, "an entry without a host name is left out")
            elif value is not None:
                before = len(self.faults)
                self.section(here, value, Registry)
                registry = build(self.values, Registry, here)
                found[host] = replace(registry, usable=len(self.faults) == before)
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

    def no_table(self, path: Path, raw: Any) -> None:
        reason = f"{show_raw(raw)} is not {'an object' if self.document.json else 'a table'}"
        self.faults.append((path, str(self.error(path, reason))))

    def error(self, path: Path, reason: str) -> ConfigError:
        name = printable(".".join(path))
        return located(self.document.name, self.document.line(path), f"{name}: {reason}")


def _elsewhere(word: str) -> str:
    """The key of this name in any section; "" if there is none."""
    return next((key.name for key in keys() if key.path[-1] == word.casefold()), "")
