# SPDX-License-Identifier: Apache-2.0
"""The pure parts: references, ways in, jobs and news, room, which images go."""

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.containerd.image_format import Descriptor, estimate_unpacked, is_digest
from pycm.containerd.images import Record
from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from pycm.registry import pull
from pycm.registry.job import (
    REFERENCE_LIMIT,
    Access,
    Job,
    News,
    NoRoomError,
    Reference,
    find_access,
    make_error_line,
    parse_job,
    parse_news,
    parse_reference,
)
from pycm.registry.preload import find_name
from pycm.registry.remote import TryLaterError
from pycm.registry.usage import Usage, Used, choose_for_room, find_expired

DIGEST = "sha256:" + "a1" * 32

# ── references ──


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r.test/app:1.0", ("r.test", "app", "1.0", "")),
        ("r.test:5000/a/b-c/d_e:v1", ("r.test:5000", "a/b-c/d_e", "v1", "")),
        (f"r.test/app@{DIGEST}", ("r.test", "app", "", DIGEST)),
        (f"r.test/app:1@{DIGEST}", ("r.test", "app", "1", DIGEST)),
        ("[::1]:5000/app:1", ("[::1]:5000", "app", "1", "")),
        ("[::1]/app:1", ("[::1]", "app", "1", "")),
        ("99999/app:1", ("99999", "app", "1", "")),
        ("docker.io/library/hello-world:latest", ("docker.io", "library/hello-world", "latest", "")),
    ],
)
def test_references_are_taken_apart(text: str, expected: tuple[str, ...]) -> None:
    found = parse_reference(text)
    assert found == Reference(text, *expected)
    assert found.wanted == (found.digest or found.tag)


def test_docker_hub_lives_elsewhere() -> None:
    assert parse_reference("docker.io/library/x:1").registry == "registry-1.docker.io"
    assert parse_reference("ghcr.io/x/y:1").registry == "ghcr.io"


@pytest.mark.parametrize("text", ["r.test/app", "app", "alpine:3", "", "a" * 100])
def test_without_tag_and_digest_the_words_are_kantos(text: str) -> None:
    with pytest.raises(NotFoundError, match=r"object required$"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/app:1", "must begin with the registry's host"),
        ("-r/app:1", "must begin with the registry's host"),
        ("user@host/app:1", "must begin with the registry's host"),
        ("r.test:99999/app:1", 'reference "r.test:99999/app:1": port 99999 is not between 1 and 65535'),
        ("r.test:0/app:1", "port 0 is not between"),
        ("r.test/App:1", "may contain small letters"),
        ("r.test/../etc:1", "may contain small letters"),
        ("r.test/a//b:1", "may contain small letters"),
        ("r.test/app:", "must be up to 128"),
        ("r.test/app:a b", "must be up to 128"),
        ("r.test/app:x\n", "must be up to 128"),
        ("r.test/app:" + "x" * 129, "must be up to 128"),
        ("r.test/app@sha256:123", "must be sha256: and"),
        ("r.test/app@", "must be sha256: and"),
        ("r.test/" + "a" * REFERENCE_LIMIT + ":1", "longer than 512"),
    ],
)
def test_what_is_wrong_with_a_reference_is_told_in_one_line(text: str, why: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_reference(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=600))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    said = ""
    try:
        found = parse_reference(text)
        assert found.wanted
        assert text.isascii()
    except PycmError as error:
        said = str(error)
    assert "\n" not in said


def test_digests() -> None:
    assert is_digest(DIGEST)
    assert is_digest("sha512:" + "0" * 128)
    assert not any(
        map(is_digest, ("", "sha256:", DIGEST[:-1], DIGEST.upper(), "md5:" + "0" * 32, DIGEST + "\n"))
    )


# ── ways in ──


def test_the_way_into_a_registry() -> None:
    mine = Access(user="me", password="p", root_ca="/ca")
    configured = {"r.test": mine, "both.test:5000": mine, "localhost:7": mine}
    insecure = ("localhost", "both.test:5000")
    assert find_access("r.test", configured, insecure) == mine
    assert find_access("other.test", configured, insecure) == Access()
    # the login stays, files for TLS have no meaning
    assert find_access("both.test:5000", configured, insecure) == Access(
        insecure=True, user="me", password="p"
    )
    assert find_access("both.test", configured, insecure) == Access()
    # on this machine plain HTTP, unless something is configured
    assert find_access("localhost:7", configured, insecure) == mine
    assert all(
        find_access(host, {}, ()).insecure for host in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000")
    )
    assert not any(
        find_access(host, {}, ()).insecure for host in ("127.evil.test", "localhost.test", "10.0.0.1:1")
    )


# ── jobs and news ──


def test_a_job_travels_whole_and_its_password_is_not_shown() -> None:
    job = Job("/s", "ns", "overlayfs", "l", "r.test/a:1", access=Access(user="me", password="geheim"))
    assert parse_job(job.line()) == job
    assert job.line().count(b"\n") == 1
    assert "geheim" not in repr(job)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFoundError("a"), NotFoundError),
        (ConflictError("a"), ConflictError),
        (InvalidInputError("a"), InvalidInputError),
        (UnavailableError("a"), UnavailableError),
        (TryLaterError("a", 3.0), UnavailableError),
        (OperationFailedError("a"), OperationFailedError),
        (PycmError("a"), OperationFailedError),
    ],
)
def test_an_error_keeps_its_kind(error: PycmError, kind: type[PycmError]) -> None:
    found = parse_news(make_error_line(error))
    assert type(found) is kind
    assert str(found) == "a"


def test_hint_of_an_error_reaches_the_agent() -> None:
    found = parse_news(make_error_line(ConflictError("a", hint="Try b.")))
    assert isinstance(found, ConflictError)
    assert (str(found), found.hint) == ("a", "Try b.")


def test_want_of_room_keeps_its_number() -> None:
    found = parse_news(make_error_line(NoRoomError("no room", 42)))
    assert isinstance(found, NoRoomError)
    assert found.missing == 42


def test_news_travel_whole() -> None:
    news = News("done", 1, 2, 3, ("a", "b"), ("c",))
    assert parse_news(news.line()) == news


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_what_is_no_news_is_an_error_that_the_agent_expects(line: bytes) -> None:
    try:
        parse_news(line)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        pass


# ── room ──


def layer(size: int, kind: str = "tar+gzip") -> Descriptor:
    return Descriptor(DIGEST, size, f"application/vnd.oci.image.layer.v1.{kind}")


def test_compressed_layers_are_bigger_unpacked() -> None:
    assert [estimate_unpacked(layer(100, kind)) for kind in ("tar", "tar+gzip", "tar+zstd")] == [
        100,
        250,
        300,
    ]


def test_sizes_on_one_file_system_add_up(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(tmp_path)
    monkeypatch.setattr(pull, "free_space", lambda _: 1_000_000)
    pull.check_room("image x", [(here, 400_000), (here, 500_000)], 100_000)
    with pytest.raises(NoRoomError) as caught:
        pull.check_room("image x", [(here, 400_000), (here, 500_000)], 200_000)
    assert caught.value.missing == 100_000
    assert str(caught.value) == (
        f"no space for image x: it needs 0.9 MB under {here}, where 1.0 MB are free and 0.2 MB are kept as a reserve: 0.1 MB are missing"
    )
    pull.check_room("image x", [(here, 0)], 10_000_000)  # all of it is here: nothing is written
    pull.check_room("image x", [("/nowhere/at/all", 10**12)], 0)  # containerd is in another mount namespace


@pytest.mark.parametrize(
    ("room", "files", "free_files", "left"),
    [
        (10, 1600, 100, ""),
        (9, 1600, 100, "0.0 MB are free under /x"),
        (10, 1600, 99, "99 of 1600 files are free under /x"),
        (10, 10**9, 16_384, ""),
        (10, 10**9, 16_383, "16383 of 1000000000 files are free under /x"),
        (10, 0, 0, ""),  # btrfs counts no files
    ],
)
def test_bytes_and_files_may_be_used_up(
    monkeypatch: pytest.MonkeyPatch, room: int, files: int, free_files: int, left: str
) -> None:
    found = SimpleNamespace(f_bavail=room, f_frsize=1, f_files=files, f_favail=free_files)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert pull.find_shortage("/x", 10) == left


def test_file_system_that_is_not_seen_from_here_is_not_used_up() -> None:
    assert pull.find_shortage("/nowhere/at/all", 10) == ""


# ── which images go ──


def used(
    name: str,
    age: float,
    *,
    containers: tuple[str, ...] = (),
    preloaded: bool = False,
    room: int = 10,
    readable: bool = True,
) -> Used:
    record = Record(name, Descriptor(DIGEST, 1), int((NOW - age) * 1e9), preloaded)
    return Used(record, 5, room, containers, readable)


NOW = 2_000_000_000.0


def test_old_images_that_nothing_uses_expire() -> None:
    ages = {"old": 100.0, "young": 99.5, "younger": 10.0, "in use": 500.0, "held": 500.0, "damaged": 500.0}
    images = [
        used("old", 0),
        used("young", 0),
        used("younger", 0),
        used("in use", 0, containers=("c",)),
        used("held", 0),
        used("preloaded", 0, preloaded=True),
        used("damaged", 0, readable=False),
        used("of unknown age", 10**9),
    ]
    assert find_expired(images, {"held"}, 100, {**ages, "preloaded": 500.0}) == (["old"], 0.5)
    assert find_expired(images, (), 100, {}) == ([], None)
    assert find_expired([], (), 100, {}) == ([], None)


def test_the_oldest_unused_images_make_room() -> None:
    images = [
        used("c", 1),
        used("a", 3),
        used("b", 2),
        used("in use", 9, containers=("c",)),
        used("held", 9),
        used("preloaded", 9, preloaded=True),
    ]
    assert choose_for_room(images, {"held"}, 5) == ["a"]
    assert choose_for_room(images, {"held"}, 11) == ["a", "b"]
    assert choose_for_room(images, {"held"}, 30) == ["a", "b", "c"]
    assert choose_for_room(images, {"held"}, 31) == []  # in vain


def test_names_in_archives() -> None:
    def named(**annotations: str) -> str:
        return find_name(
            Descriptor(
                DIGEST, 1, annotations={key.replace("_", "."): text for key, text in annotations.items()}
            )
        )

    assert named(io_containerd_image_name="r.test/a:1", org_opencontainers_image_ref_name="1") == "r.test/a:1"
    assert named(org_opencontainers_image_ref_name="r.test/a:1") == "r.test/a:1"
    assert named(org_opencontainers_image_ref_name="1.0") == ""
    assert named() == ""
    for wrong in (
        "r.test/" + "a" * REFERENCE_LIMIT + ":1",
        "r.test/A:1",
        "r.test/a:1\ud800",
        "r.test/../a:1",
    ):
        with pytest.raises(InvalidInputError, match="failed to resolve reference"):
            named(io_containerd_image_name=wrong)


class Store:
    """As much of a store as `Usage` needs."""

    snapshots: dict[str, list[str]]

    async def parents(self, snapshotter: str) -> dict[str, list[str]]:
        return self.snapshots


class Tops:
    """Images by what they are stacked up to; one that is not among them is damaged."""

    def __init__(self, **tops: str) -> None:
        self.tops = tops

    async def read(self, reference: str, _: Descriptor) -> Any:
        if reference not in self.tops:
            raise NotFoundError("damaged")
        return SimpleNamespace(layers=[], top=self.tops[reference])


async def test_usage_counts_by_reference_and_unknown_snapshots_by_layers() -> None:
    store = Store()
    store.snapshots = {
        "x": ["c1-snapshot", "c2-snapshot", "stranger"],
        "y": ["c3-snapshot"],
        "z": ["c4-snapshot"],
    }
    known = {
        "c1": "a",
        "c2": "b",
        "c3": "b",
        "c5": "broken",
        "c6": "a",
    }  # c3's tag has moved, c6 has lost its snapshot
    usage = Usage(store, Tops(a="x", b="x", c="x", d="y", e="z"), None, "overlayfs", lambda: known)  # type: ignore[arg-type]
    users = {}
    for number, name in enumerate(("a", "b", "c", "d", "e", "broken")):
        found = await usage.of(Record(name, Descriptor(f"sha256:{number}", 1), 0))
        users[name] = (found.containers, found.is_free)
    assert users == {
        "a": (("c1", "c6", "stranger"), False),
        "b": (("c2", "c3", "stranger"), False),
        "c": (("stranger",), False),
        "d": ((), True),
        "e": (("c4",), False),
        "broken": (("c5",), False),
    }
