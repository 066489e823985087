# SPDX-License-Identifier: Apache-2.0
"""The file that says which containers a thing's twin shows, so that those gone meanwhile are deleted there (mqtt-twin 6).

Name and content are the original's, so that either can take over from the other. Blocking: call from a worker.


What the twin keeps over a restart of the agent: whose twin it was, the metrics request, the last statuses of software operations.

One small file beside the list of shown containers. The original has none: it starts with nothing. Blocking: call from a worker.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, shorten
from pycm.model import gojson
from pycm.storage.files import make_directory, read_regular, write_atomic
from pycm.twin import envelope
from pycm.twin.session import THING_SUFFIX, Thing, device_from, thing_of

if TYPE_CHECKING:
    from collections.abc import Mapping


log = logging.getLogger("pycm.twin")

MODE = 0o600
DIRECTORY_MODE = 0o711
#: Longest file that is read: 10 000 containers.
MAX_SIZE = 1 << 20


def file_name(thing_id: str) -> str:
    return f"sup_back_{thing_id.replace(':', '_')}.json"


def _old_file_name(thing_id: str) -> str:
    """Of early versions of the original, which replaced the first colon only."""
    return f"sup_back_{thing_id.replace(':', '_', 1)}.json"


class Memory:
    """`home`: the configuration's `things.home_dir`. Failures are logged: the twin works without, but stale features stay."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._written: dict[str, bytes] = {}

    def prepare(self) -> None:
        try:
            make_directory(self._home, DIRECTORY_MODE)
        except OSError as error:
            log.error("things.home_dir %s cannot be used: %s", self._home, error.strerror)

    def read(self, thing_id: str) -> list[str]:
        path = os.path.join(self._home, file_name(thing_id))
        self._take_over(os.path.join(self._home, _old_file_name(thing_id)), path)
        data = self._read(path)
        self._written = {thing_id: data}
        ids, damage = _ids(data)
        if damage:
            log.warning(
                "%s is damaged (%s): features of containers that are gone may stay in the twin", path, damage
            )
        return ids

    def _take_over(self, old: str, path: str) -> None:
        if old == path or not os.path.lexists(old):
            return
        try:
            os.rename(old, path)
        except OSError as error:
            log.warning("%s cannot be renamed to %s: %s", old, path, error.strerror)

    def _read(self, path: str) -> bytes:
        try:
            return read_regular(path, MAX_SIZE + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return b""

    def write(self, thing_id: str, features: Mapping[str, str]) -> None:
        """Nothing is written if that is what the file says already."""
        data = gojson.dumps(dict(sorted(features.items())) or None).encode()
        if self._written.get(thing_id) == data:
            return
        path = os.path.join(self._home, file_name(thing_id))
        try:
            write_atomic(path, data, MODE)
        except OSError as error:
            log.error("%s cannot be written: %s", path, error.strerror)
            return
        self._written = {thing_id: data}


def _ids(data: bytes) -> tuple[list[str], str]:
    """Container ids, and what is wrong with the file."""
    if not data:
        return [], ""
    if len(data) > MAX_SIZE:
        return [], f"longer than {MAX_SIZE} bytes"
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return [], "not valid JSON"
    if found is None:
        return [], ""
    if not isinstance(found, dict):
        return [], f"{shorten(found)} is not an object"
    # a slash would make another path of it in the twin
    return [key for key in found if key and "/" not in key and key.isprintable()], ""


log = logging.getLogger("pycm.twin")

FILE = "twin_state.json"
#: Suffix under which a file that cannot be used is kept, once.
DAMAGED = ".damaged"
MODE = 0o600
#: Longest file that is read; a request and two statuses are each shorter than a payload may be.
MAX_SIZE = 4 << 20


@dataclass(frozen=True)
class Kept:
    """`told`: lastOperation and lastFailedOperation. `request`: the argument of the metrics request, None if there is none.
    `machine`: the same of the device's own thing.
    """

    thing: Thing | None = None
    container_ids: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    request: Any = None
    machine: Any = None

    def as_state(self) -> dict[str, Any]:
        if self.thing is None:
            return {}
        return {
            "tenant": self.thing.tenant,
            "thing": self.thing.id,
            "told": dict(self.told),
            "request": self.request,
            "machine": self.machine,
        }


def kept_from(state: Any, container_ids: tuple[str, ...] = ()) -> Kept:
    """Errors: InvalidInputError, if it is not what was written."""
    if not isinstance(state, dict):
        raise InvalidInputError("not an object")
    if not state:
        return Kept()
    thing = state.get("thing")
    if not isinstance(thing, str) or not thing.endswith(THING_SUFFIX):
        raise InvalidInputError("thing is missing")
    device = device_from({"deviceid": thing.removesuffix(THING_SUFFIX), "tenantid": state.get("tenant")})
    told = state.get("told")
    return Kept(
        thing_of(device),
        container_ids,
        told if isinstance(told, dict) else {},
        state.get("request"),
        state.get("machine"),
    )


class KeptFile:
    """Failures are logged: without the file a restart loses the request and the statuses, nothing else."""

    def __init__(self, home: str) -> None:
        self._path = os.path.join(home, FILE)
        self._written = b""

    def read(self) -> Any:
        """The state that was written; {} if there is none that can be read."""
        try:
            data = read_regular(self._path, MAX_SIZE + 1)
            if len(data) > MAX_SIZE:
                raise InvalidInputError(f"longer than {MAX_SIZE} bytes")
            state = envelope.parse(data, MAX_SIZE)
            kept_from(state)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("%s cannot be read, it is written anew: %s", self._path, error.strerror)
            return {}
        except InvalidInputError as error:
            self._set_aside(error)
            return {}
        self._written = data
        return state

    def _set_aside(self, error: InvalidInputError) -> None:
        """It may stay there for long: without a request and statuses nothing is written."""
        aside = self._path + DAMAGED
        log.warning("%s cannot be used: %s; kept as %s, the twin begins without it", self._path, error, aside)
        try:
            os.replace(self._path, aside)
        except OSError as failure:
            log.error("cannot rename %s: %s", self._path, failure.strerror)

    def write(self, state: Mapping[str, Any]) -> None:
        """Nothing is written if that is what the file says already."""
        data = gojson.dumps(dict(state)).encode()
        if data == self._written:
            return
        try:
            write_atomic(self._path, data, MODE)
        except OSError as error:
            log.error("%s cannot be written: %s", self._path, error.strerror)
            return
        self._written = data
