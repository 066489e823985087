# SPDX-License-Identifier: Apache-2.0
"""Which manifest of an index is this machine's, in how many documents."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from pycm.containerd import image_format
from pycm.containerd.image_format import Descriptor, Resolver
from pycm.errors import NotFoundError, OperationFailedError

MACHINE = "x86_64"


class Documents:
    """A store of documents that counts what is read."""

    def __init__(self) -> None:
        self.by_digest: dict[str, bytes] = {}
        self.read: list[str] = []

    def add(self, document: Any) -> Descriptor:
        data = json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.by_digest[digest] = data
        return Descriptor(digest, len(data))

    def image(self, architecture: str = "amd64", note: str = "") -> Descriptor:
        config = self.add(
            {"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": []}, "note": note}
        )
        return self.add({"config": as_entry(config), "layers": []})

    def index(self, *entries: dict[str, Any]) -> Descriptor:
        return self.add({"manifests": list(entries)})

    async def document(self, descriptor: Descriptor) -> bytes:
        self.read.append(descriptor.digest)
        try:
            return self.by_digest[descriptor.digest]
        except KeyError:
            raise NotFoundError("not here") from None

    async def resolve(self, root: Descriptor) -> image_format.Resolved:
        return await Resolver("nothing is", MACHINE, self.document).resolve(root)


def as_entry(descriptor: Descriptor, architecture: str = "") -> dict[str, Any]:
    platform = {"platform": {"os": "linux", "architecture": architecture}} if architecture else {}
    return {"digest": descriptor.digest, "size": descriptor.size, **platform}


async def test_resolver_tells_the_way_down() -> None:
    store = Documents()
    mine = store.image()
    inner = store.index(as_entry(store.image("arm64"), "arm64"), as_entry(mine, "amd64"))
    root = store.index(as_entry(inner, "amd64"))
    found = await store.resolve(root)
    assert [(step[0].digest, step[2]) for step in found.path] == [
        (root.digest, 0),
        (inner.digest, 1),
        (mine.digest, -1),
    ]
    assert [step[1] for step in found.path] == [store.by_digest[step[0].digest] for step in found.path]
    assert found.config.platform == ("linux", "amd64", "")


async def test_resolver_reads_equal_entries_once() -> None:
    store = Documents()
    other = store.image("arm64")
    root = store.index(*[as_entry(other)] * 900, as_entry(store.image()))
    await store.resolve(root)
    assert len(store.read) == 5  # index, two manifests, two configurations


async def test_resolver_looks_at_a_bounded_number_of_nameless_entries() -> None:
    store = Documents()
    others = [as_entry(store.image("arm64", str(number))) for number in range(image_format.NAMELESS)]
    mine = as_entry(store.image())
    await store.resolve(store.index(*others[1:], mine))
    with pytest.raises(
        OperationFailedError, match=r"^nothing is for this machine \(x86_64\), only unnamed, "
    ):
        await store.resolve(store.index(*others, mine))


async def test_resolver_reads_a_bounded_number_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Documents()
    others = [as_entry(store.image("arm64", str(number))) for number in range(2)]
    root = store.index(*others, as_entry(store.image(), "amd64"))
    monkeypatch.setattr(image_format, "DOCUMENTS", 7)  # index, three manifests, three configurations
    await store.resolve(root)
    for bound in (6, 4, 1):
        monkeypatch.setattr(image_format, "DOCUMENTS", bound)
        store.read.clear()
        with pytest.raises(OperationFailedError, match="one image needs more than"):
            await store.resolve(root)
        assert len(store.read) == bound


async def test_resolver_of_nested_nameless_indexes_stays_within_the_bound() -> None:
    store = Documents()

    def tree(depth: int, name: str) -> Descriptor:
        if depth == 0:
            return store.image("arm64", name)
        return store.index(*(as_entry(tree(depth - 1, f"{name}{number}")) for number in range(8)))

    with pytest.raises(OperationFailedError, match="one image needs more than 32 documents"):
        await store.resolve(tree(3, ""))
    assert len(store.read) == image_format.DOCUMENTS


async def test_resolver_follows_three_nested_indexes_and_no_more() -> None:
    store = Documents()
    root = store.image()
    for _ in range(3):
        root = store.index(as_entry(root, "amd64"))
    await store.resolve(root)
    with pytest.raises(OperationFailedError, match="nested more than 3 deep"):
        await store.resolve(store.index(as_entry(root, "amd64")))


async def test_resolver_passes_over_entries_that_are_missing_or_no_images() -> None:
    store = Documents()
    missing = {"digest": "sha256:" + "0" * 64, "size": 3}
    signature = store.add({"config": as_entry(store.add({})), "layers": []})
    found = await store.resolve(store.index(missing, as_entry(signature), as_entry(store.image())))
    assert found.path[0][2] == 2


async def test_resolver_refuses_a_configuration_beyond_the_bound() -> None:
    store = Documents()
    config = store.add({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}})
    for size, allowed in ((4 << 20, True), ((4 << 20) + 1, False)):
        root = store.add({"config": {"digest": config.digest, "size": size}, "layers": []})
        if allowed:
            await store.resolve(root)
        else:
            with pytest.raises(
                OperationFailedError, match="has a configuration of 4194305 bytes, more than 4194304"
            ):
                await store.resolve(root)
