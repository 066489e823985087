# SPDX-License-Identifier: Apache-2.0
"""Registries that refuse, stall, cut, lie and redirect: a clear error or a completed pull, and nothing half-made counts as an image."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from containerd_server import ContainerdServer, private_containerd
from hostile_registry import HostileRegistry, Request
from images import Image, document_and_blobs
from pull_world import BASE, cut_each_after, fresh, images, leases, noise, puller, refused

from pycm.errors import NotFoundError, OperationFailedError, PycmError, UnavailableError
from pycm.registry.job import Access

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


# ── answers ──


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        (401, {}, OperationFailedError, ("pull access denied", "answers 401")),
        (401, {"WWW-Authenticate": "Negotiate"}, OperationFailedError, ("pull access denied", "answers 401")),
        (403, {}, OperationFailedError, ("pull access denied", "answers 403")),
        (404, {}, NotFoundError, (":1: not found",)),
        (410, {}, OperationFailedError, ("unexpected status 410",)),
        (429, {"Retry-After": "3600"}, UnavailableError, ("answers 429", "asks to wait 3600 s")),
    ],
)
def test_a_refusal_is_one_clear_error(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News], status: int,
    headers: dict[str, str], kind: type[PycmError], words: tuple[str, ...],
) -> None:  # fmt: skip
    reference = registry.put(fresh(), "some/app", "1")
    before = leases(containerd)
    body = json.dumps({"errors": [{"code": "X", "message": "so said\nthe server"}]}).encode()
    registry.answer = lambda request: "/manifests/" in request.path and request.say(status, body, headers)
    error = refused(pull, reference)
    assert type(error) is kind
    assert str(error).startswith(f'failed to resolve reference "{reference}": ')
    for word in (*words, "so said the server"):
        assert word in str(error)
    assert ("registry_configurations" in error.hint) is (status in (401, 403))
    assert reference not in images(containerd)
    assert leases(containerd) == before


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_what_passes_is_waited_out(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News], status: int, part: str
) -> None:
    reference = registry.put(fresh(), "some/app", "1")
    left = [2]

    def answer(request: Request) -> bool:
        if part not in request.path or left[0] == 0:
            return False
        left[0] -= 1
        return request.say(status, headers={"Retry-After": "0"})

    registry.answer = answer
    assert pull(reference).images == (reference,)
    assert reference in images(containerd)


def test_a_server_that_stays_in_trouble_ends_in_an_error(
    registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "some/app", "1")
    registry.answer = lambda request: "/manifests/" in request.path and request.say(500)
    error = refused(pull, reference)
    assert isinstance(error, UnavailableError)
    assert "answers 500" in str(error)
    asked = [seen for seen in registry.requests if "/manifests/" in seen.path]
    assert len(asked) == 6


def test_a_registry_that_is_not_there_ends_soon(pull: Callable[..., News]) -> None:
    error = refused(pull, "localhost:1/some/app:1")
    assert isinstance(error, UnavailableError)
    assert "Connection refused" in str(error)


# ── transfers ──


def test_a_transfer_that_is_cut_again_and_again_goes_on_where_it_was(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[BASE, noise(900_000)]), "some/app", "1")
    registry.answer = cut_each_after(200_000)
    news = pull(reference)
    assert reference in images(containerd)
    ranges = [
        int(seen.headers["range"][6:-1]) for seen in registry.blob_requests() if "range" in seen.headers
    ]
    assert len(ranges) >= 4
    total = sum(len(blob) for blob in registry.blobs.values()) - len(BASE)
    assert news.fetched in (total, total + len(BASE))  # nothing twice, whether or not the base was here


def test_a_pull_cut_at_80_percent_and_repeated_fetches_only_the_rest(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[noise(5_000_000)]), "big/app", "1")
    size = max(map(len, registry.blobs.values()))
    passed = [False]

    def answer(request: Request) -> bool:
        if len(request.server.owner.blobs.get(request.path.rpartition("/")[2], b"")) != size:
            return False
        if passed[0]:
            return request.say(403)
        passed[0] = True
        return cut_each_after(size * 8 // 10)(request)

    registry.answer = answer
    error = refused(pull, reference)
    assert "answers 403" in str(error)
    assert reference not in images(containerd)
    registry.answer = None
    before = len(registry.requests)
    news = pull(reference)
    assert reference in images(containerd)
    again = [seen for seen in registry.requests[before:] if "/blobs/" in seen.path]
    assert [seen.headers.get("range") for seen in again] == [f"bytes={size * 8 // 10}-"]
    assert news.fetched == size - size * 8 // 10


def test_a_server_without_ranges_is_read_over(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[noise(600_000)]), "some/app", "1")
    cuts = [1]

    def answer(request: Request) -> bool:
        blob = request.server.owner.blobs.get(request.path.rpartition("/")[2])
        if blob is None:
            return False
        if cuts[0] and len(blob) > 100_000:
            cuts[0] -= 1
            return cut_each_after(300_000)(request)
        return request.say(200, blob)

    registry.answer = answer
    pull(reference)
    assert reference in images(containerd)


def wrong_content(blob: bytes) -> bytes:
    return b"\xff" * len(blob)


@pytest.mark.parametrize("size", [2_000, 700_000])
def test_other_content_under_the_digest_is_never_used(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News], size: int
) -> None:
    reference = registry.put(Image(layers=[noise(size)]), "lying/app", "1")
    big = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    true = registry.blobs[big]
    registry.blobs[big] = wrong_content(true)
    error = refused(pull, reference)
    assert f"other content under the digest of {big}" in str(error)
    assert reference not in images(containerd)
    assert big not in containerd.ctr("content", "ls", "-q").split()
    registry.blobs[big] = true
    pull(reference)  # and the failed attempt does not stand in the way
    assert reference in images(containerd)


def test_what_an_earlier_attempt_left_damaged_is_fetched_anew(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[noise(700_000)]), "half/app", "1")
    big = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    true = registry.blobs[big]
    registry.blobs[big] = wrong_content(true)
    done = [False]

    def answer(request: Request) -> bool:
        if not request.path.endswith(big):
            return False
        if done[0]:
            return request.say(403)
        done[0] = True
        return cut_each_after(300_000)(request)

    registry.answer = answer
    refused(pull, reference)
    registry.answer, registry.blobs[big] = None, true
    pull(reference)
    assert reference in images(containerd)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_lie_about_a_size_is_told(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News], change: int
) -> None:
    kind, document, blobs = document_and_blobs(fresh())
    manifest = json.loads(document)
    manifest["layers"][-1]["size"] += change
    registry.blobs.update(blobs)
    reference = registry.put_document(kind, json.dumps(manifest).encode(), "lying/size", "1")
    error = refused(pull, reference)
    assert "bytes" in str(error)
    assert reference not in images(containerd)


def test_an_answer_longer_than_it_should_be_is_refused(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[noise(3_000)]), "long/app", "1")

    def answer(request: Request) -> bool:
        blob = request.server.owner.blobs.get(request.path.rpartition("/")[2])
        return blob is not None and request.say(200, blob + b"more")

    registry.answer = answer
    error = refused(pull, reference)
    assert "bytes, expected" in str(error)
    assert reference not in images(containerd)


def test_a_manifest_that_is_another_one_is_refused(
    registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "some/app", "1")
    _, document = registry.manifests["/v2/some/app/manifests/1"]
    digest = "sha256:" + hashlib.sha256(document).hexdigest()
    pinned = f"{reference.rpartition(':')[0]}@{digest}"
    registry.put(fresh(), "some/app", "1")
    registry.manifests[f"/v2/some/app/manifests/{digest}"] = registry.manifests["/v2/some/app/manifests/1"]
    assert f"other content under the digest {digest}" in str(refused(pull, pinned))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "is not JSON"),
        (b"<html>welcome to the hotel</html>", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "neither an image index nor an image manifest"),
        (b'{"manifests": []}', "only nothing"),
        (b'{"config": {"digest": "sha256:x", "size": 3}, "layers": []}', "which is not a digest"),
        (b'{"config": {"digest": "../../etc", "size": 3}, "layers": []}', "which is not a digest"),
        (b'{"config": {"digest": "sha256:' + b"1" * 64 + b'", "size": 99999999999}, "layers": []}', "has a configuration of"),
        (b"[" * 100_000, "is not JSON"),
        (b" " * (5 << 20), "sends more than"),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_manifest_that_is_none_is_one_clear_error(
    registry: HostileRegistry, pull: Callable[..., News], document: bytes, words: str
) -> None:
    reference = registry.put_document("application/json", document, "odd/app", "1")
    assert words in str(refused(pull, reference))


def entries(count: int, **more: object) -> bytes:
    """An index of *count* equal entries that name no image."""
    entry = {"digest": "sha256:" + "1" * 64, "size": 3, **more}
    return json.dumps({"manifests": [entry] * count}).encode()


AMD64 = {"platform": {"os": "linux", "architecture": "amd64"}}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (entries(25_000), "manifests of manifest sha256:…: 25000 entries, more than 1000"),
        (entries(25_000, **AMD64), "25000 entries, more than 1000"),
        (entries(1_000), "has no image for this machine"),
        (entries(1, annotations={str(number): "x" for number in range(257)}), "has 257 annotations, more than 256"),
        (entries(1, size=10**19), "has a size of 10000000000000000000 bytes, more than 1099511627776"),
        (entries(1, size=True), "has no digest and size"),
        (entries(1, mediaType="\ud800"), "is not valid Unicode"),
        (b'{"manifests": [{"size": ' + b"9" * 1_000_000 + b"}]}", "a number of 1000000 digits"),
    ],
    ids=range(8),
)  # fmt: skip
def test_index_beyond_its_bounds_is_refused_at_once(
    registry: HostileRegistry, pull: Callable[..., News], document: bytes, words: str
) -> None:
    reference = registry.put_document("application/json", document, "wide/app", "1")
    error = str(refused(pull, reference))
    assert all(word in error for word in words.split("sha256:…"))
    assert len(registry.requests) <= 12


def test_image_beyond_its_bounds_is_refused_before_its_layers_are_fetched(
    registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    for image, words in (
        (Image(config={"Env": ["A=1"] * 4097}), "Env of configuration"),
        (
            fresh(diff_ids=["sha256:" + "1" * 64] * 3),
            "2 layers in the manifest, 3 diff_ids in the configuration",
        ),
        (fresh(diff_ids=["sha256:" + "1" * 64, "../etc"]), "has diff_id '../etc', which is not a digest"),
    ):
        registry.requests.clear()
        assert words in str(refused(pull, registry.put(image, "odd/app", "1")))
        assert len(registry.blob_requests()) == 1  # the configuration


def test_a_layer_that_unpacks_to_something_else_is_no_image(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(diff_ids=["sha256:" + "1" * 64] * 2), "other/app", "1")
    assert "it unpacks to sha256:" in str(refused(pull, reference))
    assert reference not in images(containerd)


# ── redirects and logins ──


def test_blobs_at_another_host_are_fetched_and_the_token_is_not_seen_there(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "some/app", "1")
    with HostileRegistry() as elsewhere:
        elsewhere.blobs = registry.blobs
        registry.answer = guarded(registry, "secret-token", lambda request: to(elsewhere, request))
        pull(reference, Access(insecure=True, user="me", password="geheim"))
        assert reference in images(containerd)
        assert elsewhere.blob_requests()
        assert {seen.authorization for seen in elsewhere.requests} == {""}
    assert any(seen.authorization == "Bearer secret-token" for seen in registry.blob_requests())


def to(elsewhere: HostileRegistry, request: Request) -> bool:
    if "/blobs/" not in request.path:
        return False
    return request.say(307, headers={"Location": f"http://127.0.0.1:{elsewhere.port}{request.path}"})


def guarded(
    registry: HostileRegistry,
    token: str,
    then: Callable[[Request], bool] = lambda _: False,
    *,
    basic: str = "",
) -> Callable[[Request], bool]:
    """A token service on the same host; *basic*: the login that it wants."""

    def answer(request: Request) -> bool:
        seen = request.headers.get("Authorization", "")
        if request.path.startswith("/token?"):
            if basic and seen != basic:
                return request.say(401, b'{"errors": [{"message": "wrong password"}]}')
            return request.say(200, json.dumps({"token": token}).encode())
        if seen != f"Bearer {token}":
            realm = (
                f'Bearer realm="http://{registry.host}/token",service="x",scope="repository:some/app:pull"'
            )
            return request.say(401, headers={"WWW-Authenticate": realm})
        return then(request)

    return answer


def test_a_token_is_fetched_with_the_login(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "some/app", "1")
    registry.answer = guarded(registry, "t1", basic="Basic bWU6Z2VoZWlt")
    error = refused(pull, reference, access=Access(insecure=True, user="me", password="wrong"))
    assert "answers 401" in str(error)
    assert "wrong password" in str(error)
    pull(reference, Access(insecure=True, user="me", password="geheim"))
    assert reference in images(containerd)


def test_a_token_that_is_taken_back_in_the_middle_is_renewed(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(Image(layers=[noise(1000), noise(1000), noise(1000)]), "some/app", "1")
    tokens = [0]

    def answer(request: Request) -> bool:
        if request.path.startswith("/token?"):
            tokens[0] += 1
        elif "/blobs/" in request.path and tokens[0] == 1:
            return guarded(registry, "t2")(request)
        return guarded(registry, f"t{max(tokens[0], 1)}")(request)

    registry.answer = answer
    pull(reference)
    assert reference in images(containerd)
    assert tokens[0] == 2


def test_basic_authentication(
    containerd: ContainerdServer, registry: HostileRegistry, pull: Callable[..., News]
) -> None:
    reference = registry.put(fresh(), "some/app", "1")

    def answer(request: Request) -> bool:
        if request.headers.get("Authorization") == "Basic bWU6Z2VoZWlt":
            return False
        return request.say(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    registry.answer = answer
    error = refused(pull, reference, access=Access(insecure=True, user="me", password="wrong"))
    assert "pull access denied" in str(error)
    assert "wrong" not in str(error)
    pull(reference, Access(insecure=True, user="me", password="geheim"))
    assert reference in images(containerd)


def test_redirects_that_lead_nowhere_end(registry: HostileRegistry, pull: Callable[..., News]) -> None:
    reference = registry.put(fresh(), "some/app", "1")
    registry.answer = lambda request: (
        "/blobs/" in request.path and request.say(302, headers={"Location": request.path})
    )
    assert "redirects more than 5 times" in str(refused(pull, reference))
