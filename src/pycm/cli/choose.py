# SPDX-License-Identifier: Apache-2.0
"""Which container a command means: an id as a word, or a name by --name. Names are looked up in the list."""

from __future__ import annotations

from pycm.errors import InvalidInputError, NotFoundError

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
