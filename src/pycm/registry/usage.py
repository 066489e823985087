# SPDX-License-Identifier: Apache-2.0
"""Images as they are in containerd, with the containers that use them, and which of them may go. The decisions are pure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.errors import NotFoundError, OperationFailedError
from pycm.registry import space

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pycm.containerd.content import Content
    from pycm.containerd.image_store import ImageStore, Record
    from pycm.containerd.images import Images

#: Images whose documents are remembered; beyond it they are read again.
MOST_REMEMBERED = 512
#: Images that are looked at side by side.
PARALLEL = 8
_SNAPSHOT = "-snapshot"


@dataclass(frozen=True)
class Used:
    """`size`: bytes of its layers as far as they are here. `room`: bytes that its removal may free, unpacked ones included; what it
    shares with others is counted too. `readable`: of a damaged image not all that uses it may be known.
    """

    record: Record
    size: int = 0
    room: int = 0
    containers: tuple[str, ...] = ()
    readable: bool = True

    @property
    def free(self) -> bool:
        return self.readable and not self.containers


@dataclass(frozen=True)
class _Facts:
    top: str
    size: int
    room: int


@dataclass(frozen=True)
class _Users:
    """Ids of known containers by reference, and of unknown ones by the snapshot that theirs stands on."""

    references: Mapping[str, list[str]]
    tops: Mapping[str, list[str]]


def _users(containers: Mapping[str, str], snapshots: Mapping[str, list[str]]) -> _Users:
    references: dict[str, list[str]] = {}
    for container_id, reference in containers.items():
        references.setdefault(reference, []).append(container_id)
    tops = {
        top: [owner for name in names if (owner := name.removesuffix(_SNAPSHOT)) not in containers]
        for top, names in snapshots.items()
    }
    return _Users(references, tops)


class Usage:
    """*containers*: references of the images that containers were made from, by the containers' ids.

    A container uses the image of that name, and no other one of the same layers. Of a snapshot that belongs to none of them it is not
    known which of several images it was made from: it counts for all.
    """

    def __init__(
        self,
        store: ImageStore,
        images: Images,
        content: Content,
        snapshotter: str,
        containers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._store = store
        self._images = images
        self._content = content
        self._snapshotter = snapshotter
        self._containers = containers
        self._remembered: dict[str, _Facts] = {}

    async def all(self) -> list[Used]:
        """All images, by reference."""
        records = await self._store.all()
        return await self._used(sorted(records, key=lambda record: record.reference))

    async def of(self, record: Record) -> Used:
        return (await self._used([record]))[0]

    async def _used(self, records: Iterable[Record]) -> list[Used]:
        snapshots = await self._store.parents(self._snapshotter)
        users = _users(self._containers(), snapshots)
        limit = asyncio.Semaphore(PARALLEL)

        async def one(record: Record) -> Used:
            async with limit:
                facts = await self._facts(record)
            names = users.references.get(record.reference, [])
            if facts is None:
                return Used(record, containers=tuple(sorted(names)), readable=False)
            return Used(
                record, facts.size, facts.room, tuple(sorted([*names, *users.tops.get(facts.top, ())]))
            )

        return list(await asyncio.gather(*map(one, records)))

    async def _facts(self, record: Record) -> _Facts | None:
        """None of an image that is damaged, or not for this machine."""
        digest = record.target.digest
        if digest not in self._remembered:
            try:
                image = await self._images.read(record.reference, record.target)
                sizes = [(await self._content.size(layer.digest), layer) for layer in image.layers]
            except (NotFoundError, OperationFailedError):
                return None
            here = sum(size or 0 for size, _ in sizes)
            facts = _Facts(image.top, here, here + sum(space.unpacked(layer) for _, layer in sizes))
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[digest] = facts
        return self._remembered[digest]

    def forget(self, digest: str) -> None:
        self._remembered.pop(digest, None)


def expired(
    images: Iterable[Used], held: Collection[str], limit: float, ages: Mapping[str, float]
) -> tuple[list[str], float | None]:
    """What is to be removed, since its age has reached *limit*, and the seconds until the next one's may have.

    One that is in use or held waits for its last container's removal, and has no time of its own.
    """
    due, left = [], []
    for image in images:
        reference = image.record.reference
        if image.record.preloaded or not image.free or reference in held or reference not in ages:
            continue
        rest = limit - ages[reference]
        if rest <= 0:
            due.append(reference)
        else:
            left.append(rest)
    return due, min(left, default=None)


def to_make_room(images: Iterable[Used], held: Collection[str], missing: int) -> list[str]:
    """The oldest unused images whose removal may free *missing* bytes; none if all of them together would not do."""
    chosen, sum_ = [], 0
    for image in sorted(images, key=lambda image: image.record.created_ns):
        if sum_ >= missing:
            break
        if image.free and not image.record.preloaded and image.record.reference not in held:
            chosen.append(image.record.reference)
            sum_ += image.room
    return chosen if sum_ >= missing else []
