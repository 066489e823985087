# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.containerd import image_format
from pycm.containerd.image_format import Manifest, chain_ids, config, index_or_manifest, parse, rank, verify
from pycm.errors import OperationFailedError
from pycm.ports import ImageConfig

DESCRIPTOR = {"digest": "sha256:" + "0" * 64, "size": 2, "mediaType": "m"}


@pytest.mark.parametrize(
    ("machine", "platforms"),
    [
        ("x86_64", ["linux/amd64", "linux/386"]),
        ("aarch64", ["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("armv7l", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("armv6l", ["linux/arm/v6", "linux/arm/v5"]),
        ("riscv64", ["linux/riscv64"]),
        ("sparc64", ["linux/sparc64"]),  # not in the table: the kernel's own name
    ],
)
def test_a_machine_prefers_its_own_platform_and_runs_older_ones(machine: str, platforms: list[str]) -> None:
    ranks = [rank((*platform.split("/"), "", "")[:3], machine) for platform in platforms]
    assert ranks == list(range(len(platforms)))


@pytest.mark.parametrize(
    ("platform", "machine"),
    [
        (("linux", "arm64", ""), "x86_64"),
        (("windows", "amd64", ""), "x86_64"),
        (("unknown", "unknown", ""), "x86_64"),  # attestations
        (("linux", "amd64", "v3"), "x86_64"),
        (("linux", "arm", "v7"), "armv6l"),
        (("linux", "arm", ""), "armv6l"),  # means v7
        (("", "", ""), "x86_64"),
    ],
)
def test_what_a_machine_cannot_run_has_no_rank(platform: tuple[str, str, str], machine: str) -> None:
    assert rank(platform, machine) is None


def test_a_platform_without_variant_is_the_usual_one() -> None:
    assert rank(("linux", "arm64", ""), "aarch64") == rank(("linux", "arm64", "v8"), "aarch64") == 0
    assert rank(("linux", "arm", ""), "armv7l") == rank(("linux", "arm", "v7"), "armv7l") == 0
    assert rank(("linux", "amd64", "v1"), "x86_64") == 0


def test_chain_ids_follow_the_oci_image_specification() -> None:
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert chain_ids([]) == ()
    assert chain_ids([a]) == (a,)
    # printf 'sha256:aa… sha256:bb…' | sha256sum
    assert chain_ids([a, b]) == (a, "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c")


def test_an_index_and_a_manifest_are_told_apart_by_content() -> None:
    entries = index_or_manifest(
        {"manifests": [{**DESCRIPTOR, "platform": {"os": "linux", "architecture": "arm64"}}]}, "i"
    )
    assert isinstance(entries, tuple)
    assert entries[0].platform == ("linux", "arm64", "")
    manifest = index_or_manifest(
        {"config": DESCRIPTOR, "layers": [{**DESCRIPTOR, "annotations": {"a": "b", "c": 1}}]}, "m"
    )
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].annotations == {"a": "b"}


def test_a_configuration_may_leave_out_everything_but_the_layers() -> None:
    assert config({"rootfs": {"diff_ids": ["d"]}, "config": None}, "c").image == ImageConfig()
    assert config({"rootfs": {"diff_ids": ["d"]}}, "c").diff_ids == ("d",)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "x is neither an image index nor an image manifest (schema 1 is not supported)"),
        ({"manifests": [1]}, "an entry of x is no JSON object: 1"),
        ({"manifests": [{"digest": "d"}]}, "an entry of x has no digest and size: {'digest': 'd'}"),
        ({"manifests": [{**DESCRIPTOR, "size": -1}]}, "an entry of x has no digest and size"),
        ({"manifests": [{**DESCRIPTOR, "digest": 5}]}, "digest of an entry of x: a text is needed, not 5"),
        ({"config": DESCRIPTOR, "layers": {}}, "layers of x: a list is needed, not {}"),
        ({"config": DESCRIPTOR, "layers": [None]}, "a layer of x is no JSON object: None"),
        ({"config": []}, "config of x is no JSON object: []"),
    ],
)
def test_a_wrong_manifest_is_named(document: dict[str, Any], text: str) -> None:
    with pytest.raises(OperationFailedError) as caught:
        index_or_manifest(document, "x")
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "rootfs of x is no JSON object: None"),
        ({"rootfs": {}, "config": 1}, "config of x is no JSON object: 1"),
        ({"rootfs": {}, "config": {"Env": "A=1"}}, "Env of x: a list is needed, not 'A=1'"),
        ({"rootfs": {}, "config": {"Env": [1]}}, "Env of x: a text is needed, not 1"),
        ({"rootfs": {}, "config": {"User": 0.5}}, "User of x: a text is needed, not 0.5"),
        ({"rootfs": {"diff_ids": 1}}, "diff_ids of x: a list is needed, not 1"),
    ],
)
def test_a_wrong_configuration_is_named(document: dict[str, Any], text: str) -> None:
    with pytest.raises(OperationFailedError) as caught:
        config(document, "x")
    assert str(caught.value) == text


def test_content_is_used_only_if_its_digest_matches() -> None:
    verify("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", b"hello")
    with pytest.raises(OperationFailedError, match=r"content sha256:2cf2.* is damaged \(0 bytes\)"):
        verify("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", b"")
    with pytest.raises(OperationFailedError, match="unknown kind"):
        verify("md5:5d41402abc4b2a76b9719d911017c592", b"hello")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"a":1}x', b'"\\ud800"'])
def test_what_is_no_json_object_is_named(data: bytes) -> None:
    with pytest.raises(OperationFailedError, match=r"^thing is no JSON"):
        parse(data, "thing")


FIELDS = [
    "manifests",
    "config",
    "layers",
    "digest",
    "size",
    "platform",
    "os",
    "rootfs",
    "diff_ids",
    "Env",
    "annotations",
]
TEXTS = st.sampled_from(["", "sha256:00", "a\nb", "\ud800", "x" * 1000, "linux"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS), inner),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_gives_a_value_or_one_line(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    for read in (index_or_manifest, config):
        message = ""
        try:
            read(parse(data, "x"), "x")
        except OperationFailedError as error:
            message = str(error)
        assert "\n" not in message
        assert len(message) < 300


def test_platforms_in_messages_are_short_and_printable() -> None:
    assert image_format.show_platform(None) == "unnamed"
    assert image_format.show_platform(("linux", "arm", "v7")) == "linux/arm/v7"
    assert "\n" not in image_format.show_platform(("a\nb", "x" * 1000, ""))
    assert len(image_format.show_platform(("a\nb", "x" * 1000, ""))) < 100
