# SPDX-License-Identifier: Apache-2.0
"""Notes that live and die with containerd's store: labels of a lease that holds nothing."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from pycm.containerd import rpc
from pycm.containerd.proto import leases_pb2
from pycm.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pycm.containerd.client import Client

_PREFIX = "pycm.mark."


class Marks:
    """*lease*: its name."""

    def __init__(self, client: Client, lease: str) -> None:
        self._client = client
        self._lease = lease
        self._labels: dict[str, str] = {}

    async def read(self) -> Marked:
        found = await self._client.call(
            rpc.LEASE_LIST, leases_pb2.ListRequest(filters=[f'id=="{self._lease}"'])
        )
        self._labels = dict(found.leases[0].labels) if found.leases else {}
        return Marked(self._labels)

    async def add(self, name: str, value: str, among: Iterable[str]) -> None:
        """Note *value* (at most some hundred characters) of *name*, and forget names that are not *among* those that still count.

        A crash in between loses notes, never makes wrong ones.
        """
        kept = set(map(_key, among))
        self._labels = {key: text for key, text in self._labels.items() if key in kept}
        self._labels[_key(name)] = value
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self._lease))
        await self._client.call(
            rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=self._lease, labels=self._labels)
        )


class Marked:
    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels

    def get(self, name: str) -> str | None:
        return self._labels.get(_key(name))


def _key(name: str) -> str:
    """Labels have 4096 characters, key and value together."""
    return _PREFIX + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
