# SPDX-License-Identifier: Apache-2.0
"""The command line and the configuration file to a Config: which file, its bytes, and what cannot be done yet.

Flags win over the file, the file over the defaults. Nothing is printed or logged here: warnings and errors are Notes for the log
that does not exist yet, and what ends the start is a ConfigError.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.config.bridge import check_network
from pycm.config.document import parse as parse_document
from pycm.config.keys import CFG_FILE, CHECK, FLAGS
from pycm.config.merge import Note, degraded, merge
from pycm.errors import ConfigError, InvalidInputError
from pycm.flags import parse as parse_flags
from pycm.flags import printable, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pycm.config.document import Document
    from pycm.config.types import Config, Containers
    from pycm.flags import Parsed

__all__ = ["ETC", "Loaded", "Note", "load", "load_parsed", "parse_line"]

ETC = "/etc/container-management"
#: In the order of preference.
NAMES = ("config.toml", "config.json")
#: A configuration has a few KiB; whatever is larger is the wrong file.
MAX_FILE = 1024 * 1024


@dataclass(frozen=True)
class Loaded:
    """path: the file that was read, "" if none; check: --check-config was given."""

    config: Config
    notes: tuple[Note, ...]
    path: str
    check: bool


@dataclass(frozen=True)
class Source:
    """Where the configuration came from: `path`, "" for no file, and how it is read again. Errors: as of load_parsed."""

    path: str
    read: Callable[[], Config]


def source_of(loaded: Loaded, parsed: Parsed, *, etc: str = ETC) -> Source:
    return Source(loaded.path, lambda: _read_again(parsed, etc))


def _read_again(parsed: Parsed, etc: str) -> Config:
    """For what may change while the agent runs, all of it of MQTT: an error there is a ConfigError."""
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
    merged = merge(document, parsed)
    notes += merged.notes
    config = merged.config
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
    """The file to read, "" for none. The one that the line names must be there, the usual ones need not."""
    named: str = parsed.values[CFG_FILE.name]
    if named:
        return named, []
    paths = [os.path.join(etc, name) for name in NAMES]
    # a link to nowhere is there too: defaults in place of what somebody wrote must not go unnoticed
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        return "", [Note(logging.INFO, f"no configuration file in {etc}: flags and defaults are used")]
    if len(there) == 1:
        return there[0], []
    return there[0], [Note(logging.WARNING, f"{there[0]} is read, {there[1]} is not: remove one of the two")]


def _read(path: str, notes: list[Note]) -> Document:
    name = printable(path)
    try:
        data = _bytes(path)
    except OSError as error:
        hint = "; check --cfg-file" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"cannot read the configuration file {name}: {error.strerror}{hint}") from None
    except ValueError:
        raise ConfigError(
            f"cannot read the configuration file {name}: the name has a NUL character"
        ) from None
    if len(data) > MAX_FILE:
        raise ConfigError(
            f"the configuration file {name} is larger than {MAX_FILE} bytes; is it the right one?"
        )
    document = parse_document(data, name)
    if not document.text.strip():
        notes.append(
            Note(logging.WARNING, f"the configuration file {name} is empty: flags and defaults are used")
        )
    else:
        notes.append(Note(logging.INFO, f"configuration read from {name}"))
    return document


def _bytes(path: str) -> bytes:
    """At most one byte more than is allowed. A pipe that nobody writes to must not hold up the start."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE + 1)
    finally:
        os.close(descriptor)


# ── what this version cannot do yet ─────────────────────────────────────────────────────────────────────────────────

_NOT_YET = "is read and has no effect: this version has no"


def _not_yet(config: Config) -> Iterator[Note]:
    """One line for each feature that was asked for and is still to come; defaults ask for nothing."""
    if config.update_agent.enable:
        yield Note(logging.WARNING, f"update_agent.enable {_NOT_YET} update agent")
    yield from _refusing(config.containers)
    if config.network.default_bridge.enable_ip6:
        yield Note(logging.WARNING, f"network.default_bridge.enable_ip6 {_NOT_YET} IPv6 on the bridge")


def _refusing(containers: Containers) -> Iterator[Note]:
    """What is asked for of images and cannot be done ends in no container at all: better told before one is made."""
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
