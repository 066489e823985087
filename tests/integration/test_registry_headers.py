# SPDX-License-Identifier: Apache-2.0
"""Registries whose headers docker and containerd understand: encoded bodies, relative and unescaped addresses, many challenges."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest
from containerd_server import ContainerdServer, private_containerd
from hostile_registry import HostileRegistry, Request
from images import Image
from pull_world import fresh, images, noise, puller, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycm.registry.job import News

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


def gzipped(request: Request, *, labelled_only: bool = False) -> bool:
    """Everything with Content-Encoding: gzip, though nobody asked for it; parts are parts of what is encoded."""
    registry = request.server.owner
    path = request.path.partition("?")[0]
    kind, data = registry.manifests.get(path, ("", registry.blobs.get(path.rpartition("/")[2], b"")))
    if not data:
        return False
    sent = data if labelled_only else gzip.compress(data)
    headers = {"Content-Encoding": "gzip", **({"content-type": kind} if kind else {})}
    begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
    if begin:
        headers["Content-Range"] = f"bytes {begin}-{len(sent) - 1}/{len(sent)}"
    return request.say(206 if begin else 200, sent[begin:], headers)


@pytest.mark.parametrize("compression", ["", "+gzip"])
@pytest.mark.parametrize("labelled_only", [False, True])
def test_encoding_that_nobody_asked_for_is_undone(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News], compression: str, labelled_only: bool
) -> None:  # fmt: skip
    reference = registry.put(fresh(compression=compression), "encoded/app", "1")
    registry.answer = lambda request: gzipped(request, labelled_only=labelled_only)
    pull(reference)
    assert reference in images(containerd)


def test_encoded_transfer_that_is_cut_goes_on(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[noise(700_000)]), "encoded/cut", "1")
    big = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    cuts = [1]

    def answer(request: Request) -> bool:
        if not (request.path.endswith(big) and cuts[0]):
            return gzipped(request)
        cuts[0] -= 1
        sent = gzip.compress(registry.blobs[big])
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(sent)))
        request.end_headers()
        request.wfile.write(sent[: len(sent) // 2])
        request.cut()
        return True

    registry.answer = answer
    pull(reference)
    assert reference in images(containerd)
    assert any("range" in seen.headers for seen in registry.blob_requests())


def test_encoding_that_cannot_be_undone_is_one_clear_error(
    registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "encoded/odd", "1")
    registry.answer = lambda request: request.say(200, b"x", {"Content-Encoding": "br"})
    assert "sends its answer encoded as 'br', expected none" in str(refused(pull, reference))


def test_locations_and_realms_may_be_relative_and_unescaped(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "some/app", "1")

    def answer(request: Request) -> bool:
        if request.path.startswith("/to%20ken?"):
            body = gzip.compress(json.dumps({"token": "", "access_token": "t1"}).encode())
            return request.say(200, body, {"CONTENT-ENCODING": "gzip", "content-type": "text/html"})
        if request.headers.get("Authorization") != "Bearer t1":
            offers = 'Negotiate, NTLM TlRM/+A==, bearer Realm = "/to ken", error="invalid_token"'
            return request.say(401, headers={"www-authenticate": offers})
        if "/blobs/" in request.path:
            digest = request.path.rpartition("/")[2]
            return request.say(
                307, headers={"location": f"../../../../stored at/\u00c3\u00a4?x=y z&/{digest}"}
            )
        return request.say(
            203, registry.manifests[request.path][1], {"content-type": "text/plain; charset=utf-8"}
        )

    def stored(request: Request) -> bool:
        """The blobs, where the redirects lead."""
        if not request.path.startswith("/stored%20at/"):
            return answer(request)
        return request.say(203, registry.blobs[request.path.rpartition("/")[2]])

    registry.answer = stored
    pull(reference)
    assert reference in images(containerd)
    assert any(seen.path.startswith("/stored%20at/%C3%A4?x=y%20z&/sha256:") for seen in registry.requests)
    (line,) = (line for line in containerd.ctr("images", "ls").splitlines() if line.startswith(reference))
    assert line.split()[1] == "application/vnd.oci.image.manifest.v1+json"
