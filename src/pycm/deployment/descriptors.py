# SPDX-License-Identifier: Apache-2.0
"""Descriptors in a directory: found, read and checked. Whatever lies there, reading it ends, and a bad file spoils no other."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError, shorten
from pycm.model.container import LARGEST
from pycm.model.defaults import fill_defaults
from pycm.model.descriptor import read_descriptor
from pycm.model.unknown import unknown_keys
from pycm.model.validation import check_id, check_name, validate
from pycm.storage.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.model.container import Container

SUFFIX = ".json"
#: Directories below each other, entries that are looked at, descriptors, and bytes of all of them together.
MOST_DEPTH, MOST_ENTRIES, MOST_FILES, MOST_BYTES = 16, 10_000, 512, 16 * 1024 * 1024
#: Unknown keys of a descriptor, and problems of a directory, that are named.
MOST_KEYS, MOST_PROBLEMS = 10, 100


@dataclass(frozen=True)
class Descriptor:
    """One container as its file wants it, defaults filled. The id is "" where the file leaves it open; the name is always set."""

    path: str
    container: Container


@dataclass
class Found:
    """What a directory holds. `problems`: texts for the log, values of environments left out; each begins with its file."""

    descriptors: list[Descriptor] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def problem(self, path: str, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{shorten(path, 300)}: {text}")


def read_directory(directory: str) -> Found:
    """Read every `*.json` file in and below *directory*, in lexical order. Blocking. A missing directory holds nothing."""
    found = Found()
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    left = MOST_BYTES
    for number, path in enumerate(_files(directory, found)):
        if number >= MOST_FILES:
            found.problem(directory, f"more than {MOST_FILES} descriptors (the others are ignored)")
            break
        try:
            data = _read(path)
            left -= len(data)
            if left < 0:
                raise InvalidInputError(f"all descriptors together are larger than {MOST_BYTES} bytes")
            container = _container_in(data, path, found)
            for kind, text, taken in (("name", container.name, names), ("id", container.id, ids)):
                if text in taken:
                    raise InvalidInputError(
                        f"container_{kind} {text} is already used by {shorten(taken[text], 300)}"
                    )
        except InvalidInputError as error:
            found.problem(path, f"{error.masked} (skipped)")
        except OSError as error:
            found.problem(path, f"{error.strerror or error} (skipped)")
        else:
            found.descriptors.append(Descriptor(path, container))
            names[container.name] = path
            if container.id:
                ids[container.id] = path
    return found


def _files(directory: str, found: Found) -> Iterator[str]:
    """Paths of the descriptors below *directory*. Links to files count, links to directories do not: they may go in circles."""
    entries = 0
    waiting = [(directory, 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            mode = os.stat(path).st_mode if path == directory else os.lstat(path).st_mode
            if not stat.S_ISDIR(mode):
                if path == directory:
                    found.problem(path, "not a directory (nothing is deployed)")
                elif path.endswith(SUFFIX):
                    yield path
                continue
            with os.scandir(path) as listed:
                names = [entry.name for entry in islice(listed, MOST_ENTRIES + 1)]
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) and path == directory):
                found.problem(path, f"{error.strerror or error} (skipped)")
            continue
        entries += len(names)
        if entries > MOST_ENTRIES or depth >= MOST_DEPTH:
            limit = (
                f"more than {MOST_ENTRIES} entries"
                if entries > MOST_ENTRIES
                else f"deeper than {MOST_DEPTH} directories"
            )
            found.problem(path, f"{limit} (skipped)")
            continue
        waiting += [(os.path.join(path, name), depth + 1) for name in sorted(names, reverse=True)]


def _read(path: str) -> bytes:
    data = read_regular(path, LARGEST + 1, follow=True)
    if len(data) > LARGEST:
        raise InvalidInputError(f"larger than {LARGEST} bytes")
    return data


def _container_in(data: bytes, path: str, found: Found) -> Container:
    """Return the container that the file at *path* wants. Errors: InvalidInputError."""
    try:
        wanted = read_descriptor(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not UTF-8 at byte {error.start}") from None
    for number, (key, nearest) in enumerate(unknown_keys(wanted)):
        if number == MOST_KEYS:
            found.problem(path, "more keys are not known (ignored)")
            break
        meant = f"; {near} may be meant" if (near := nearest()) else ""
        found.problem(path, f"{shorten(key)} is not known (ignored{meant})")
    if wanted.id:
        check_id(wanted.id)
    container = fill_defaults(_named(wanted, path), new_id=lambda: "")
    validate(container)
    return container


def _named(wanted: Container, path: str) -> Container:
    """A descriptor without name and id is known by its file: the same file must mean the same container at the next start."""
    name = wanted.name or wanted.id or os.path.basename(path)[: -len(SUFFIX)]
    if not wanted.name and not wanted.id:
        try:
            check_name(name)
        except InvalidInputError:
            raise InvalidInputError(f"has no container_name, and {shorten(name)} cannot be one") from None
        if not name:
            raise InvalidInputError("has no container_name, and neither has the file")
    return replace(wanted, name=name)
