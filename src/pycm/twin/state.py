# SPDX-License-Identifier: Apache-2.0
"""The twin's files in `things.home_dir`: which containers each thing's twin shows, and what a restart of the agent must
not lose.

Blocking: call from a worker thread. A failure is logged, and the twin works without the file.
"""

from __future__ import annotations

import logging
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError, shorten
from pycm.storage.files import StateFile, make_directory
from pycm.twin.session import THING_SUFFIX, Thing, device_from, thing_of

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("pycm.twin")

DIRECTORY_MODE = 0o711
#: Longest list that is read: 10 000 containers.
MAX_LIST = 1 << 20
#: The file with the rest of the state, and its longest content: requests and statuses are each shorter than a payload
# may be.
FILE, MAX_STATE = "twin_state.json", 4 << 20


# ── the containers that are shown ──


def file_name(thing_id: str) -> str:
    return f"sup_back_{thing_id.replace(':', '_')}.json"


def _old_file_name(thing_id: str) -> str:
    """The name in early versions of the original, which replaced the first colon only."""
    return f"sup_back_{thing_id.replace(':', '_', 1)}.json"


class Memory:
    """The ids of the containers that a thing's twin shows, so that those removed meanwhile are deleted there.

    Names and content of the files are the original's, so that either can take over from the other. *home*:
    `things.home_dir`.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self._file = StateFile("", log, limit=0, loss="")

    def prepare(self) -> None:
        try:
            make_directory(self._home, DIRECTORY_MODE)
        except OSError as error:
            log.error("things.home_dir %s: cannot be used: %s", self._home, error.strerror)

    def _open(self, thing_id: str) -> StateFile:
        """Only the file of one thing is in use at a time."""
        path = os.path.join(self._home, file_name(thing_id))
        if self._file.path != path:
            loss = "features of removed containers may stay in the twin"
            self._file = StateFile(path, log, limit=MAX_LIST, loss=loss)
        return self._file

    def read(self, thing_id: str) -> list[str]:
        file = self._open(thing_id)
        self._take_over(os.path.join(self._home, _old_file_name(thing_id)), file.path)
        return file.read(_ids, [])

    def _take_over(self, old: str, path: str) -> None:
        if old == path or not os.path.lexists(old):
            return
        try:
            os.rename(old, path)
        except OSError as error:
            log.warning("%s: cannot be renamed to %s: %s", old, path, error.strerror)

    def write(self, thing_id: str, features: Mapping[str, str]) -> None:
        """*features*: container id to feature id."""
        self._open(thing_id).write(dict(sorted(features.items())) or None)


def _ids(found: Any) -> list[str]:
    if found is None:
        return []
    if not isinstance(found, dict):
        raise InvalidInputError(f"{shorten(found)} is not an object")
    # a slash would make another path in the twin
    return [key for key in found if key and "/" not in key and key.isprintable()]


# ── the rest ──


class Kept(NamedTuple):
    """`statuses`: lastOperation and lastFailedOperation. `request`: the argument of the metrics request, None without
    one.

    `machine`: the request for system metrics. The original keeps none of this.
    """

    thing: Thing | None = None
    container_ids: tuple[str, ...] = ()
    statuses: Mapping[str, Any] = MappingProxyType({})
    request: Any = None
    machine: Any = None

    def as_state(self) -> dict[str, Any]:
        if self.thing is None:
            return {}
        return {
            "tenant": self.thing.tenant,
            "thing": self.thing.id,
            "told": dict(self.statuses),
            "request": self.request,
            "machine": self.machine,
        }


def kept_from(state: Any, container_ids: tuple[str, ...] = ()) -> Kept:
    """Raises InvalidInputError if *state* was not made by `as_state`."""
    if not isinstance(state, dict):
        raise InvalidInputError("not an object")
    if not state:
        return Kept()
    thing = state.get("thing")
    if not isinstance(thing, str) or not thing.endswith(THING_SUFFIX):
        raise InvalidInputError("thing is missing")
    device = device_from({"deviceid": thing.removesuffix(THING_SUFFIX), "tenantid": state.get("tenant")})
    statuses = state.get("told")
    return Kept(
        thing_of(device),
        container_ids,
        statuses if isinstance(statuses, dict) else {},
        state.get("request"),
        state.get("machine"),
    )


class KeptFile:
    """Holds the state that `Kept.as_state` makes."""

    def __init__(self, home: str) -> None:
        loss = "the twin begins without metrics requests and statuses"
        self._file = StateFile(os.path.join(home, FILE), log, limit=MAX_STATE, loss=loss)

    def read(self) -> Kept:
        return self._file.read(kept_from, Kept())

    def write(self, state: Mapping[str, Any]) -> None:
        self._file.write(dict(state))
