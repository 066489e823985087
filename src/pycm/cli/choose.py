# SPDX-License-Identifier: Apache-2.0
"""Which container a command means: an id as a word, or a name by --name. Names are looked up in the list."""

from __future__ import annotations

from pycm.errors import InvalidInputError, NotFoundError
from pycm.flags import quote

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycm.api.calls import Agent
    from pycm.api.proto.api.types.containers.types_pb2 import Container
    from pycm.cli.line import Line


def check_choice(ids: Sequence[str], name: str) -> None:
    """Exactly one of both must be given. Errors: InvalidInputError."""
    if any(ids) and name:
        raise InvalidInputError(
            "Container ID and --name (-n) cannot be provided at the same time - use only one of them"
        )
    if not any(ids) and not name:
        raise InvalidInputError("You must provide either an ID or a name for the container via --name (-n) ")


def chosen(line: Line) -> Container:
    """The container of a command that takes one id or --name. Errors: InvalidInputError, NotFoundError."""
    check_choice(line.rest, line.values["name"])
    return (
        by_name(line.agent, line.values["name"]) if line.values["name"] else by_id(line.agent, line.rest[0])
    )


def by_id(agent: Agent, container_id: str) -> Container:
    container = agent.get(container_id)
    if container is None:
        raise NotFoundError(f"The requested container with ID = {container_id} was not found.")
    return container


def by_name(agent: Agent, name: str) -> Container:
    found = [container for container in agent.list() if container.name == name]
    if not found:
        raise NotFoundError(
            f"The requested container with name = {name} was not found. Try using an ID instead."
        )
    if len(found) > 1:
        raise InvalidInputError(
            f"There are more than one containers with name = {name}. Try using an ID instead."
        )
    return found[0]


def one(line: Line) -> Container:
    """The container of a command of pycm's own: an id, the unique beginning of one, or a name; or --name."""
    check_choice(line.rest[:1], line.values["name"])
    return (
        by_name(line.agent, line.values["name"]) if line.values["name"] else by_word(line.agent, line.rest[0])
    )


def by_word(agent: Agent, word: str) -> Container:
    """By id, by name, by the beginning of an id, whichever fits first. Errors: NotFoundError, InvalidInputError."""
    containers = agent.list()
    for fits in (_has_id, _has_name, _begins):
        found = [container for container in containers if fits(container, word)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(sorted(container.id for container in found)[:5])
            raise InvalidInputError(
                f"{quote(word)} stands for {len(found)} containers: {listed}; use a full id"
            )
    near = sorted({c.name for c in containers if word.lower() in c.name.lower()} - {""})[:5]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise NotFoundError(f"there is no container {quote(word)}{hint}")


def _has_id(container: Container, word: str) -> bool:
    return container.id == word


def _has_name(container: Container, word: str) -> bool:
    return container.name == word


def _begins(container: Container, word: str) -> bool:
    return bool(word) and container.id.startswith(word)
