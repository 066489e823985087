# SPDX-License-Identifier: Apache-2.0
"""Pulls that succeed: every form of image, the right platform; killed at any step; a server that falls silent."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from containerd_server import ContainerdServer, private_containerd
from hostile_registry import HostileRegistry, Request
from images import INDEX, Image, document_and_blobs
from pull_world import INSECURE, fresh, images, leases, noise, puller, refused

from pycm.errors import UnavailableError
from pycm.registry import pull as pulling
from pycm.registry.job import Job, News
from pycm.registry.worker import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        server.ctr("namespaces", "create", server.namespace)
        yield server


@pytest.fixture
def registry() -> Iterator[HostileRegistry]:
    with HostileRegistry() as server:
        yield server


@pytest.fixture
def pull(containerd: ContainerdServer) -> Callable[..., News]:
    return puller(containerd)


# ── forms of images ──


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["", "+gzip", "+zstd"])
def test_every_form_of_layer_is_unpacked(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News], docker: bool,
    compression: str,
) -> None:  # fmt: skip
    image = fresh(compression=compression)
    kind, document, blobs = document_and_blobs(image, docker=docker)
    if docker:  # Docker's names end in another way
        document = document.replace(b"diff.tar+gzip", b"diff.tar.gzip").replace(
            b"diff.tar+zstd", b"diff.tar.zstd"
        )
    registry.blobs.update(blobs)
    reference = registry.put_document(kind, document, "form/app", f"1{docker}{compression[1:]}")
    pull(reference)
    assert reference in images(containerd)


def test_of_an_index_only_what_this_machine_runs_is_fetched(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    entries, wanted = [], set()
    for machine in ("s390x", "amd64", "arm64"):
        kind, document, blobs = document_and_blobs(fresh(architecture=machine))
        registry.put_document(kind, document, "multi/app", machine)
        registry.blobs.update(blobs)
        wanted |= set(blobs) if machine == "arm64" else set()
        digest = "sha256:" + hashlib.sha256(document).hexdigest()
        platform = {"os": "linux", "architecture": machine}
        entries.append({"mediaType": kind, "digest": digest, "size": len(document), "platform": platform})
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    reference = registry.put_document(INDEX, index, "multi/app", "1")
    pull(reference, machine="aarch64")
    assert {seen.path.rpartition("/")[2] for seen in registry.blob_requests()} <= wanted
    assert reference in images(containerd)
    error = refused(pull, reference, machine="riscv64")
    assert "has no image for this machine (riscv64), only linux/s390x, linux/amd64, linux/arm64" in str(error)


# ── ends at any moment ──


POINTS = (
    "registry.resolved", "registry.piece-written:2", "registry.layer-fetched", "registry.fetched", "registry.unpacked",
    "registry.named",
)  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_is_killed_at_any_step_leaves_no_half_image_and_the_next_one_completes_it(
    containerd: ContainerdServer,
    registry: HostileRegistry,
    pull: Callable[..., News],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    reference = registry.put(Image(layers=[noise(600_000), noise(1000)]), "killed/app", "1")
    before = leases(containerd)
    with monkeypatch.context() as patch:
        patch.setenv("PYCM_FAIL_POINT", point)
        error = refused(pull, reference)
    assert isinstance(error, UnavailableError)
    assert "pull worker was killed" in str(error)
    assert (reference in images(containerd)) == (point == "registry.named")
    registry.requests.clear()
    news = pull(reference)
    assert reference in images(containerd)
    if POINTS.index(point) >= POINTS.index("registry.fetched"):
        assert (registry.blob_requests(), news.fetched) == ([], 0)
    assert leases(containerd) == before


async def test_a_server_that_falls_silent_counts_as_cut(
    containerd: ContainerdServer, registry: HostileRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pycm.http.client.IDLE", 2.0)  # the server runs in this process, beside the client
    told: list[bytes] = []
    monkeypatch.setattr("pycm.registry.worker.write", told.append)
    reference = registry.put(Image(layers=[noise(700_000)]), "silent/app", "1")
    stalls = [2]

    def answer(request: Request) -> bool:
        blob = request.server.owner.blobs.get(request.path.rpartition("/")[2], b"")
        if len(blob) < 100_000 or not stalls[0]:
            return False
        stalls[0] -= 1
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(blob) - 1}/{len(blob)}")
        request.send_header("Content-Length", str(len(blob) - begin))
        request.end_headers()
        request.wfile.write(blob[begin : begin + 200_000])
        return request.stall()

    registry.answer = answer
    job = Job(containerd.address, containerd.namespace, "overlayfs", "test", reference, access=INSECURE)
    news = await pulling.pull(job, Reporter())
    assert news.images == (reference,)
    assert stalls == [0]
    ranges = [seen.headers.get("range") for seen in registry.blob_requests() if "range" in seen.headers]
    assert ranges == ["bytes=200000-", "bytes=400000-"]


async def test_everything_is_written_out_before_it_counts(
    containerd: ContainerdServer, registry: HostileRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = registry.put(fresh(), "synced/app", "1")
    synced: list[tuple[str, int, bool]] = []

    def sync(directory: str) -> None:
        """The directory, the snapshots that are there for good, and whether the image has its name already."""
        committed = containerd.ctr("snapshots", "ls").count("Committed")
        synced.append((directory.rpartition("/")[2], committed, reference in images(containerd)))

    monkeypatch.setattr("pycm.registry.pull.sync_file_system", sync)
    monkeypatch.setattr("pycm.containerd.images.sync_file_system", sync)
    monkeypatch.setattr("pycm.registry.worker.write", lambda _: None)
    before = containerd.ctr("snapshots", "ls").count("Committed")
    job = Job(containerd.address, containerd.namespace, "overlayfs", "test", reference, access=INSECURE)
    await pulling.pull(job, Reporter())
    after = containerd.ctr("snapshots", "ls").count("Committed")
    content, snapshots = "io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"
    assert synced[0] == (content, before, False)  # all content, before anything is unpacked
    layers = [(snapshots, before + number, False) for number in range(after - before)]
    assert synced[1:] == layers  # each layer before it is committed
    assert after > before
