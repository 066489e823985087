# SPDX-License-Identifier: Apache-2.0
"""In which order containers start with the agent: those that others name in their `extra_hosts` first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycm.model.units import sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pycm.model.container import Container

_TOKEN = "container_"  # noqa: S105  a word of extra_hosts, no password


def boot_order(containers: Iterable[Container]) -> tuple[list[list[Container]], list[Container]]:
    """Groups to start one after the other, and those of a circle, which are in the order of their creation, one by one.

    Within a group nobody waits for another: the order is that of creation. Peers that are not among *containers* are not waited for.
    """
    waiting = sorted(containers, key=lambda c: (sort_key(c.created), c.id))
    names = {container.host_name for container in waiting}
    needs = {c.id: (_named(c) & names) - {c.host_name} for c in waiting}
    groups: list[list[Container]] = []
    circle: list[Container] = []
    while waiting:
        pending = {container.host_name for container in waiting}
        group = [container for container in waiting if not needs[container.id] & pending]
        if not group:  # only circles, and who waits for one, are left
            group = [_of_circle(waiting, needs)]
            circle += group
        started = {container.id for container in group}
        waiting = [container for container in waiting if container.id not in started]
        groups.append(group)
    return groups, circle


def _named(container: Container) -> set[str]:
    entries = container.host_config.extra_hosts if container.host_config else ()
    values = (entry.partition(":")[2] for entry in entries)
    return {value[len(_TOKEN) :] for value in values if value.startswith(_TOKEN)}


def _of_circle(waiting: list[Container], needs: dict[str, set[str]]) -> Container:
    """The oldest container that waits, over others, for itself."""

    def reaches(container: Container) -> bool:
        seen: set[str] = set()
        ahead = set(needs[container.id])
        while ahead:
            seen |= ahead
            ahead = {name for other in waiting if other.host_name in ahead for name in needs[other.id]} - seen
        return container.host_name in seen

    return next((container for container in waiting if reaches(container)), waiting[0])
