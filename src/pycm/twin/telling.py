# SPDX-License-Identifier: Apache-2.0
"""Which messages tell an event of a container (shared specification, mqtt-twin 3.1): a table of the core's tellers by name. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycm.ports import Action

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.model.container import Container

_STATE = ("state",)
#: In this order; the order within a feature is the original's.
TOLD: Mapping[Action, tuple[str, ...]] = {
    Action.CREATED: ("remember", "feature", "dependencies", "state"),
    Action.RUNNING: (*_STATE, "baseline"),
    Action.PAUSED: _STATE,
    Action.RESUMED: _STATE,
    Action.STOPPED: _STATE,
    Action.EXITED: _STATE,
    Action.RENAMED: ("name",),
    Action.UPDATED: ("config",),
    Action.HEALTH: _STATE,
    Action.REMOVED: ("state", "dependencies", "delete", "remember"),
}


def told(action: Action, before: Container | None, container: Container) -> tuple[str, ...]:
    """*before*: the container as the twin shows it.

    A start in host network mode gives the container the machine's name, of which there is no event.
    """
    renamed = before is not None and before.host_name != container.host_name
    more = ("config",) if renamed and action not in (Action.UPDATED, Action.REMOVED) else ()
    return TOLD[action] + more
