# SPDX-License-Identifier: Apache-2.0
"""The declarations of `pycm.config.types` as tables: all keys, the flags of the agent, and a Config built from values by path."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.types import Config, Connection, Option
from pycm.flags import HELP, Flag
from pycm.model.durations import SECOND, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Path = tuple[str, ...]

#: Keys under another name that is in use: path of the section and key -> the key that is meant.
ALIASES: dict[Path, str] = {("things", "enabled"): "enable"}

CFG_FILE = Flag("cfg-file", about="configuration file, TOML or JSON")
CHECK = Flag("check-config", kind="bool", about="print the effective configuration and exit")
VERSION = Flag("version", kind="bool", about="print the version and exit")

#: kind of an Option -> kind of its Flag, where they differ. Durations are strings as in the original: a bad one is no error.
_FLAG_KINDS = {"duration": "string", "stop_timeout": "string", "size": "string", "milliseconds": "int"}
_DURATIONS = ("duration", "stop_timeout")


class Key(NamedTuple):
    path: Path
    option: Option
    default: Any

    @property
    def name(self) -> str:
        return ".".join(self.path)


def members(record: Any) -> Iterator[tuple[str, Option | None, Any]]:
    """The keys of one section: name, Option (None for a section in it) and default (the section's class).

    *record*: the section's class, or a tuple of Keys.
    """
    if isinstance(record, tuple):
        for key in record:
            yield key.path[-1], key.option, key.default
        return
    for field in fields(record):
        option: Option | None = field.metadata.get("option")
        if option is None and field.default_factory is MISSING:  # not a key, such as Registry.usable
            continue
        if option is None:
            yield field.name, None, field.default_factory
        else:
            yield field.name, option, field.default if field.default is not MISSING else {}


def keys(record: Any = Config, path: Path = ()) -> Iterator[Key]:
    """All keys of a section and of those in it, in the order of their declaration."""
    for name, option, default in members(record):
        here = (*path, name)
        if option is None:
            yield from keys(default, here)
        else:
            yield Key(here, option, default)


def build(values: Mapping[Path, Any], record: Any = Config, path: Path = ()) -> Any:
    """A section with *values* laid over the defaults; its class is *record*."""
    arguments: dict[str, Any] = {}
    for name, option, default in members(record):
        here = (*path, name)
        if option is None:
            arguments[name] = build(values, default, here)
        elif here in values:
            arguments[name] = values[here]
    return record(**arguments)


def plain(option: Option, value: Any) -> Any:
    """A value as files and flags write it: durations as text."""
    return format_duration(round(value * SECOND)) if option.kind in _DURATIONS else value


def flag_of(key: Key) -> Flag:
    option = key.option
    kind = _FLAG_KINDS.get(option.kind, option.kind)
    return Flag(option.flag, "", kind, plain(option, key.default), option.about)


_KANTO_CONNECTION = (
    "broker_url", "keep_alive", "disconnect_timeout", "client_username", "client_password",
    "connect_timeout", "acknowledge_timeout", "subscribe_timeout", "unsubscribe_timeout",
)  # fmt: skip


def _deprecated() -> Iterator[Key]:
    for name, option, _ in members(Connection):
        if option is not None and name in _KANTO_CONNECTION:
            kind = "milliseconds" if option.kind == "duration" else option.kind
            unit = ", in milliseconds" if kind == "milliseconds" else ""
            flag = "things-" + option.flag.removesuffix("-url")
            about = f"deprecated: overrides connection.{name}{unit}"
            yield Key(
                ("things", "connection", name), replace(option, kind=kind, flag=flag, about=about), None
            )


#: Section things.connection of Kanto up to v1.0.0. A key of it that is set wins over that of [connection]. compat
DEPRECATED = tuple(_deprecated())

#: The key that each flag sets.
BY_FLAG = {key.option.flag: key for key in (*keys(), *DEPRECATED) if key.option.flag}
FLAGS = (*(flag_of(key) for key in BY_FLAG.values()), CFG_FILE, CHECK, VERSION, HELP)
