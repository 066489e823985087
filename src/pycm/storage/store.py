# SPDX-License-Identifier: Apache-2.0
"""Containers on disk, in Kanto's place and form: `<home>/containers/<id>/config.json`.

Either agent can take over from the other. A damaged file is set aside and named in the log, and the others are loaded.
Directories without a config.json are not touched, since they may belong to others.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from itertools import islice

from pycm.errors import InvalidInputError, OperationFailedError
from pycm.failpoints import fail_point
from pycm.model import gojson
from pycm.model.container import Container
from pycm.model.defaults import BRIDGE
from pycm.model.frozen import replace
from pycm.model.records import decode, excess, stored
from pycm.model.validation import check_id
from pycm.storage.files import (
    TEMPORARY,
    discard,
    make_directory,
    read_regular,
    set_aside,
    sync_directory,
    write_atomic,
)

_FILE = "config.json"
#: A larger record is damaged. A description has at most 1 MiB; those that earlier agents accepted have 4 MiB, and six
# times that if
#: each character is escaped.
MAX_SIZE = 32 * 1024 * 1024
#: A directory that holds at most this was left by an interrupted first save or deletion.
_REMAINS = frozenset({_FILE + TEMPORARY})
log = logging.getLogger("pycm.storage")


def identifier(kind: str, name: str) -> str:
    """64 hexadecimal digits, as the original's random ones; the same name gives the same ones, so that no crash makes
    two.
    """
    return hashlib.sha256(f"pycm {kind} {name}".encode()).hexdigest()


def _with_sandbox(container: Container, sandbox_id: str) -> Container:
    """A connected container on the bridge gets this sandbox, others stay as they are.

    A stored sandbox keeps Kanto's agent from making its bridge, since it considers it a live sandbox of its own
    library.
    """
    settings = container.network_settings
    if settings is None or BRIDGE not in settings.networks or settings.sandbox_id == sandbox_id:
        return container
    return replace(container, network_settings=replace(settings, sandbox_id=sandbox_id))


class DiskFullError(OperationFailedError):
    """No space to write a record. Operations that free space must not be refused for it."""


class ContainerStore:
    """Blocking: call it in a worker thread. Errors: OperationFailedError that names the file and the reason."""

    def __init__(self, home_dir: str) -> None:
        self._root = os.path.join(home_dir, "containers")

    def directory(self, container_id: str) -> str:
        """The container's own directory. InvalidInputError for an id that must not become part of a path."""
        check_id(container_id)
        return os.path.join(self._root, container_id)

    def prepare(self) -> None:
        try:
            make_directory(os.path.dirname(self._root))
            make_directory(self._root)
        except OSError as error:
            raise OperationFailedError(f"cannot use {self._root}: {error.strerror}") from error

    def load(self) -> list[Container]:
        found = []
        for name in sorted(self._names()):
            path = os.path.join(self._root, name, _FILE)
            if not os.path.lexists(path):
                self._sweep(os.path.join(self._root, name))
                continue
            try:
                found.append(self._read(path, name))
            except (InvalidInputError, OSError) as error:
                set_aside(path, error, log, "this container is not managed any more", logging.ERROR)
        return found

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._root)
        except OSError as error:
            raise OperationFailedError(f"cannot read {self._root}: {error.strerror}") from error

    def _sweep(self, directory: str) -> None:
        """Remove what an interruption left of a container without a record. A directory with anything else is not
        touched.
        """
        try:
            if not os.path.islink(directory) and _REMAINS.issuperset(os.listdir(directory)):
                discard(os.path.join(directory, _FILE + TEMPORARY))
                os.rmdir(directory)
        except OSError:
            pass  # a file, or a disk that refuses: it does no harm

    def _read(self, path: str, name: str) -> Container:
        data = read_regular(path, MAX_SIZE + 1, follow=True)
        if len(data) > MAX_SIZE:
            raise InvalidInputError(f"larger than {MAX_SIZE} bytes")
        container = decode(Container, gojson.read(data))
        check_id(container.id)
        if container.id != name:
            raise InvalidInputError(f"it says container_id {container.id!r}, its directory {name!r}")
        for text in islice(excess(container), 1):
            log.warning("stored container %s: %s for a new container (using it as it is)", name, text)
        if container.network_settings and not container.network_settings.sandbox_id:
            container = _with_sandbox(container, identifier("sandbox", container.id))
        return container

    def save(self, container: Container) -> None:
        directory = self.directory(container.id)
        try:
            if not os.path.isdir(directory):
                make_directory(directory)
                sync_directory(self._root)
                fail_point("storage.directory-made")
            write_atomic(os.path.join(directory, _FILE), stored(_with_sandbox(container, "")))
        except OSError as error:
            reason = error.strerror or str(error)
            kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else OperationFailedError
            raise kind(f"cannot store container {container.id} in {directory}: {reason}") from error

    def delete(self, container_id: str) -> None:
        """Delete the container's directory with log and network files, config.json last: an interruption leaves a
        record.
        """
        directory = self.directory(container_id)
        if not os.path.isdir(directory) or os.path.islink(directory):
            return
        try:
            for name in os.listdir(directory):
                if name != _FILE:
                    _remove(os.path.join(directory, name))
            fail_point("storage.delete-files")
            discard(os.path.join(directory, _FILE))
            fail_point("storage.delete-record")
            os.rmdir(directory)
            sync_directory(self._root)
        except OSError as error:
            log.warning("%s: cannot be removed: %s", directory, error.strerror)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        discard(path)
