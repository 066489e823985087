# SPDX-License-Identifier: Apache-2.0
"""Containers as bytes of the wire, kept as long as the container stays the same object.

Containers are frozen: a change makes a new object, so its identity is its revision. Clients that ask for the list seven times a
second (kantui does) cost a join of bytes that exist already.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pycm.api.proto.api.types.containers import types_pb2 as types
from pycm.model import records
from pycm.ports import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycm.model.container import Container
    from pycm.ports import Containers, Event

log = logging.getLogger("pycm.api")

#: Tag of field 1 holding a message: that is where every answer has its containers.
_FIELD_1 = b"\x0a"


class EncodedContainers:
    """At most one entry for each container that exists: an event of its removal ends it."""

    def __init__(self, containers: Containers) -> None:
        self._kept: dict[str, tuple[Container, bytes]] = {}
        containers.subscribe(self._forget_removed)

    def one(self, container: Container) -> bytes:
        """A whole answer (of Get, ListStream) with this container, which must exist, in its field 1."""
        kept = self._kept.get(container.id)
        if kept is None or kept[0] is not container:
            kept = container, encode(container)
            self._kept[container.id] = kept
        return kept[1]

    def all(self, containers: Sequence[Container]) -> bytes:
        """The answer of List."""
        return b"".join(map(self.one, containers))

    def _forget_removed(self, event: Event) -> None:
        if event.action is Action.REMOVED:
            self._kept.pop(event.container.id, None)


def encode(container: Container) -> bytes:
    """The same answer, not kept: a container may be removed before the client of its creation is answered."""
    return _field(_encode(container))


def _encode(container: Container) -> bytes:
    try:
        return records.to_message(container, types.Container()).SerializeToString()  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        # a text or number from a file of someone else that the wire cannot carry; List must not fail for all
        log.warning("container %s: sent without its details: %s", ascii(container.id), error)
        return _bare(container).SerializeToString()


def _bare(container: Container) -> types.Container:
    state = types.State(status=container.state.status.word, running=container.state.running)
    image = types.Image(name=_clean(container.image.name))
    return types.Container(id=_clean(container.id), name=_clean(container.name), image=image, state=state)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _field(message: bytes) -> bytes:
    return _FIELD_1 + _varint(len(message)) + message


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
