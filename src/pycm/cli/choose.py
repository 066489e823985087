# SPDX-License-Identifier: Apache-2.0
"""Which container a command means: an ID as an argument, or a name by --name. Names are looked up in the list.

Containers are objects in Kanto's JSON form, whose objects may be null.
"""

from __future__ import annotations

from pycm.errors import InvalidInputError, NotFoundError
from pycm.flags import quote

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pycm.cli.agent import Agent
    from pycm.cli.line import Line


def id_of(container: Any) -> str:
    return str(container["container_id"])


def name_of(container: Any) -> str:
    return str(container.get("container_name") or "")


#: The words for the numbers of `state.status`, as gRPC clients get them (pycm.model.states.Status, which is slow to
# import).
STATUS_WORDS = ("Creating", "Created", "Running", "Stopped", "Paused", "Exited", "Dead", "Unknown")


def status_of(container: Any) -> str:
    number = part_of(container, "state").get("status") or 0
    return STATUS_WORDS[number] if 0 <= number < len(STATUS_WORDS) else "Unknown"


def part_of(container: Any, name: str) -> Any:
    """Return the object *name* of a container; an empty one if it has none."""
    return container.get(name) or {}


def check_choice(ids: Sequence[str], name: str) -> None:
    """Check that exactly one of both is given. Errors: InvalidInputError."""
    # compat
    if any(ids) and name:
        raise InvalidInputError(
            "Container ID and --name (-n) cannot be provided at the same time - use only one of them"
        )
    if not any(ids) and not name:
        raise InvalidInputError("You must provide either an ID or a name for the container via --name (-n) ")


def find_chosen(line: Line) -> Any:
    """Return the container of a command that takes one ID or --name. Errors: InvalidInputError, NotFoundError."""
    check_choice(line.rest, line.values["name"])
    name = line.values["name"]
    return find_by_name(line.agent, name) if name else find_by_id(line.agent, line.rest[0])


def find_by_id(agent: Agent, container_id: str) -> Any:
    container = agent.get(container_id)
    if container is None:
        raise NotFoundError(f"The requested container with ID = {container_id} was not found.")  # compat
    return container


def find_by_name(agent: Agent, name: str) -> Any:
    found = [container for container in agent.list_containers() if name_of(container) == name]
    # compat
    if not found:
        raise NotFoundError(
            f"The requested container with name = {name} was not found. Try using an ID instead."
        )
    if len(found) > 1:
        raise InvalidInputError(
            f"There are more than one containers with name = {name}. Try using an ID instead."
        )
    return found[0]


def find_one(line: Line) -> Any:
    """Return the container of a command that Kanto lacks: by an ID, the unique beginning of one, or a name; or by
    --name.
    """
    check_choice(line.rest[:1], line.values["name"])
    name = line.values["name"]
    return find_by_name(line.agent, name) if name else find_by_word(line.agent, line.rest[0])


def find_by_word(agent: Agent, word: str) -> Any:
    """Find by ID, by name, or by the beginning of an ID, whichever fits first. Errors: NotFoundError,
    InvalidInputError.
    """
    containers = agent.list_containers()
    by_id, by_name = ([of(one) == word for one in containers] for of in (id_of, name_of))
    by_start = [bool(word) and id_of(one).startswith(word) for one in containers]
    for fits in (by_id, by_name, by_start):
        found = [one for one, fit in zip(containers, fits, strict=True) if fit]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(sorted(map(id_of, found))[:5])
            raise InvalidInputError(
                f"{quote(word)} matches {len(found)} containers: {listed}", hint="use a full ID"
            )
    near = sorted({name_of(c) for c in containers if word.lower() in name_of(c).lower()} - {""})[:5]
    raise NotFoundError(
        f"there is no container {quote(word)}", hint=f"did you mean {', '.join(near)}?" if near else ""
    )
