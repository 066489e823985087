# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.containerd import image_format
from pycm.containerd.image_format import (
    Manifest,
    make_chain_ids,
    parse,
    rank,
    read_config,
    read_manifest,
    verify,
)
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
    assert make_chain_ids([]) == ()
    assert make_chain_ids([a]) == (a,)
    # printf 'sha256:aa… sha256:bb…' | sha256sum
    assert make_chain_ids([a, b]) == (
        a,
        "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c",
    )


def test_an_index_and_a_manifest_are_told_apart_by_content() -> None:
    entries = read_manifest(
        {"manifests": [{**DESCRIPTOR, "platform": {"os": "linux", "architecture": "arm64"}}]}, "i"
    )
    assert isinstance(entries, tuple)
    assert entries[0].platform == ("linux", "arm64", "")
    manifest = read_manifest(
        {"config": DESCRIPTOR, "layers": [{**DESCRIPTOR, "annotations": {"a": "b", "c": 1}}]}, "m"
    )
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].annotations == {"a": "b"}


def test_a_configuration_may_leave_out_everything_but_the_layers() -> None:
    assert read_config({"rootfs": {"diff_ids": ["d"]}, "config": None}, "c").image == ImageConfig()
    assert read_config({"rootfs": {"diff_ids": ["d"]}}, "c").diff_ids == ("d",)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "x is neither an image index nor an image manifest (schema 1 is not supported)"),
        ({"manifests": [1]}, "an entry of x is not a JSON object: 1"),
        ({"manifests": [{"digest": "d"}]}, "an entry of x has no digest and size: {'digest': 'd'}"),
        ({"manifests": [{**DESCRIPTOR, "size": -1}]}, "an entry of x has no digest and size"),
        ({"manifests": [{**DESCRIPTOR, "digest": 5}]}, "digest of an entry of x: expected a string, got 5"),
        ({"config": DESCRIPTOR, "layers": {}}, "layers of x: expected a list, got {}"),
        ({"config": DESCRIPTOR, "layers": [None]}, "a layer of x is not a JSON object: None"),
        ({"config": []}, "config of x is not a JSON object: []"),
    ],
)
def test_a_wrong_manifest_is_named(document: dict[str, Any], text: str) -> None:
    with pytest.raises(OperationFailedError) as caught:
        read_manifest(document, "x")
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "rootfs of x is not a JSON object: None"),
        ({"rootfs": {}, "config": 1}, "config of x is not a JSON object: 1"),
        ({"rootfs": {}, "config": {"Env": "A=1"}}, "Env of x: expected a list, got 'A=1'"),
        ({"rootfs": {}, "config": {"Env": [1]}}, "Env of x: expected a string, got 1"),
        ({"rootfs": {}, "config": {"User": 0.5}}, "User of x: expected a string, got 0.5"),
        ({"rootfs": {"diff_ids": 1}}, "diff_ids of x: expected a list, got 1"),
    ],
)
def test_a_wrong_configuration_is_named(document: dict[str, Any], text: str) -> None:
    with pytest.raises(OperationFailedError) as caught:
        read_config(document, "x")
    assert str(caught.value) == text


def test_content_is_used_only_if_its_digest_matches() -> None:
    verify("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", b"hello")
    with pytest.raises(OperationFailedError, match=r"content sha256:2cf2.* is damaged \(0 bytes\)"):
        verify("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", b"")
    with pytest.raises(OperationFailedError, match="neither sha256 nor sha512"):
        verify("md5:5d41402abc4b2a76b9719d911017c592", b"hello")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"a":1}x', b'"\\ud800"'])
def test_what_is_no_json_object_is_named(data: bytes) -> None:
    with pytest.raises(OperationFailedError, match=r"^thing is not (a )?JSON"):
        parse(data, "thing")


TEXT, WORD, ANNOTATION = image_format.TEXT, image_format.WORD, image_format.ANNOTATION
IMAGE = {"config": DESCRIPTOR, "layers": []}


def entry(**more: Any) -> dict[str, Any]:
    return {"manifests": [{**DESCRIPTOR, **more}]}


def run(**more: Any) -> dict[str, Any]:
    return {"rootfs": {}, "config": more}


@pytest.mark.parametrize(
    ("reader", "document", "why"),
    [
        (read_manifest, lambda n: {"manifests": [DESCRIPTOR] * (1000 + n)}, "manifests of x: 1001 entries, more than 1000"),
        (read_manifest, lambda n: {**IMAGE, "layers": [DESCRIPTOR] * (500 + n)}, "layers of x: 501 entries, more than 500"),
        (read_manifest, lambda n: entry(size=(1 << 40) + n), "an entry of x has a size of 1099511627777 bytes, more than 1099511627776"),
        (read_manifest, lambda n: entry(mediaType="m" * (TEXT + n)), "mediaType of an entry of x: 'mm"),
        (read_manifest, lambda n: entry(digest="d" * (TEXT + n)), "digest of an entry of x: 'dd"),
        (read_manifest, lambda n: entry(platform={"os": "o" * (TEXT + n)}), "os of an entry of x: 'oo"),
        (read_manifest, lambda n: entry(annotations={str(i): "" for i in range(256 + n)}), "an entry of x has 257 annotations, more than 256"),
        (read_manifest, lambda n: entry(annotations={"k" * (TEXT + n): ""}), "an annotation of an entry of x: 'kk"),
        (read_manifest, lambda n: entry(annotations={"k": "v" * (ANNOTATION + n)}), "annotation 'k' of an entry of x: 'vv"),
        (read_config, lambda n: run(Entrypoint=["e"] * (4096 + n)), "Entrypoint of x: 4097 entries, more than 4096"),
        (read_config, lambda n: run(Cmd=["c"] * (4096 + n)), "Cmd of x: 4097 entries, more than 4096"),
        (read_config, lambda n: run(Env=["E=1"] * (4096 + n)), "Env of x: 4097 entries, more than 4096"),
        (read_config, lambda n: run(Env=["E" * (WORD + n)]), "has 131072 characters, more than 131071"),
        (read_config, lambda n: run(User="u" * (TEXT + n)), "has 4097 characters, more than 4096"),
        (read_config, lambda n: run(WorkingDir="/" * (TEXT + n)), "has 4097 characters, more than 4096"),
        (read_config, lambda n: {"rootfs": {"diff_ids": ["d"] * (500 + n)}}, "diff_ids of x: 501 entries, more than 500"),
    ],
    ids=range(16),
)  # fmt: skip
def test_document_of_an_image_is_bounded(reader: Any, document: Any, why: str) -> None:
    reader(document(0), "x")
    with pytest.raises(OperationFailedError) as caught:
        reader(document(1), "x")
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("half", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(half: str) -> None:
    for document in (
        entry(digest=half), entry(mediaType=half), entry(annotations={"k": half}), entry(annotations={half: "v"}),
        entry(platform={"architecture": half}),
    ):  # fmt: skip
        with pytest.raises(OperationFailedError, match="is not valid Unicode"):
            read_manifest(document, "x")
    with pytest.raises(OperationFailedError, match=r"Env of x: .* is not valid Unicode"):
        read_config(run(Env=[half]), "x")
    assert read_config(run(Env=["Ä=ö"]), "x").image.env == ("Ä=ö",)


@pytest.mark.parametrize("size", [True, 1.0, "1", None])
def test_size_is_a_whole_number(size: Any) -> None:
    with pytest.raises(OperationFailedError, match="has no digest and size"):
        read_manifest(entry(size=size), "x")


def test_number_has_as_many_digits_as_any_size_needs() -> None:
    assert parse(b'{"size": ' + b"9" * 20 + b"}", "x") == {"size": 10**20 - 1}
    with pytest.raises(OperationFailedError, match="x is not JSON: a number of 21 digits, more than 20"):
        parse(b'{"size": ' + b"9" * 21 + b"}", "x")


@pytest.mark.parametrize("value", [b"{}", b"[]", b'{"":0}', b"0"])
def test_document_of_many_small_values_is_refused_before_it_is_parsed(value: bytes) -> None:
    """4 MiB of them took up to 130 MB and a second, in the agent too."""
    per_value = sum(map(value.count, (b"[", b"{"))) + 1
    count = (image_format.MARKS - 1) // per_value
    assert len(parse(b'{"x":[' + b",".join([value] * count) + b"]}", "x")["x"]) == count
    with pytest.raises(OperationFailedError, match=r"^x has 20\d{4} commas and brackets, more than 200000$"):
        parse(b'{"x":[' + b",".join([value] * (count + 2)) + b"]}", "x")


@pytest.mark.parametrize(
    ("document", "claimed", "expected"),
    [
        ({"mediaType": image_format.MANIFEST_TYPES[3]}, image_format.MANIFEST_TYPES[1], 3),
        ({"mediaType": "text/plain"}, image_format.MANIFEST_TYPES[2], 2),
        ({"mediaType": 7, "manifests": []}, "application/json", 0),
        ({"config": {"mediaType": "application/vnd.oci.image.config.v1+json"}}, "", 1),
        ({"config": {"mediaType": "application/vnd.docker.container.image.v1+json"}}, "text/html", 3),
        ({"config": []}, "", 1),
    ],
)
def test_media_type_is_one_that_other_clients_know(
    document: dict[str, Any], claimed: str, expected: int
) -> None:
    assert image_format.choose_media_type(document, claimed) == image_format.MANIFEST_TYPES[expected]


def test_layers_and_diff_ids_belong_together() -> None:
    def check(layers: int, *diff_ids: str) -> None:
        manifest = read_manifest({**IMAGE, "layers": [DESCRIPTOR] * layers}, "m")
        assert isinstance(manifest, Manifest)
        image_format.check_layers(manifest, read_config({"rootfs": {"diff_ids": list(diff_ids)}}, "c"))

    digest = DESCRIPTOR["digest"]
    assert isinstance(digest, str)
    check(0)
    check(2, digest, digest)
    with pytest.raises(OperationFailedError, match="2 layers in the manifest, 1 diff_ids"):
        check(2, digest)
    with pytest.raises(OperationFailedError, match=r"diff_id '\.\./x', which is not a digest"):
        check(1, "../x")


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
    for read in (read_manifest, read_config):
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
