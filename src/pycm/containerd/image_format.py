# SPDX-License-Identifier: Apache-2.0
"""OCI and Docker image documents: which manifest of an index fits this machine, what a configuration says. Pure, no I/O.

Images come from anywhere, so nothing is taken for granted: every document that is not what it should be raises
OperationFailedError with one line that says which and why.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pycm.errors import NotFoundError, OperationFailedError, shorten
from pycm.ports import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from typing import Any


#: Bounds of what is believed, all of them far beyond real images (docs/images.md). Bytes of a document: registries refuse more, too.
DOCUMENT_LIMIT = 4 << 20
#: Commas and opening brackets of a document, those in texts included: each value that Python makes takes up to 200 bytes and 1 µs.
MARKS = 200_000
#: Entries of an index, layers of an image (and their diff_ids), annotations of a descriptor.
MANIFESTS, LAYERS, ANNOTATIONS = 1000, 500, 256
#: Entrypoint, Cmd and Env: entries of each, and characters of an entry (the kernel's bound, MAX_ARG_STRLEN).
WORDS, WORD = 4096, (128 << 10) - 1
#: Characters of other texts and of an annotation's value; bytes of a blob; digits of a number.
TEXT, ANNOTATION, BLOB, DIGITS = 4096, 64 << 10, 1 << 40, 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}

#: OCI's index and manifest, Docker's.
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_ARM = tuple(("arm", variant) for variant in ("v8", "v7", "v6", "v5"))
#: What a machine (uname -m) runs, best first, as (architecture, variant) of the image specification. arm64 is v8, arm is v7 unless
#: they say otherwise.
PLATFORMS: Mapping[str, Sequence[tuple[str, str]]] = {
    "x86_64": (("amd64", ""), ("386", "")),
    "i686": (("386", ""),),
    "aarch64": (("arm64", "v8"), *_ARM),
    "armv8l": _ARM,
    "armv7l": _ARM[1:],
    "armv6l": _ARM[2:],
    "armv5tel": _ARM[3:],
    "riscv64": (("riscv64", ""),),
    "ppc64le": (("ppc64le", ""),),
    "s390x": (("s390x", ""),),
    "loongarch64": (("loong64", ""),),
}
_VARIANT = {"arm64": "v8", "arm": "v7"}
_AMD64_LEVELS = ("v1", "")  # an x86-64 of level 2 or higher is not asked for: the machine may lack it


@dataclass(frozen=True)
class Descriptor:
    """A reference to content. `platform` is None where none is given."""

    digest: str
    size: int
    media_type: str = ""
    platform: tuple[str, str, str] | None = None  # os, architecture, variant
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Config:
    """An image configuration: what to run, on what, and the digests of the unpacked layers."""

    image: ImageConfig
    platform: tuple[str, str, str]
    diff_ids: tuple[str, ...]


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def verify(digest: str, data: bytes) -> None:
    """Content is used only after its digest matched."""
    algorithm, _, expected = digest.partition(":")
    if algorithm not in _HASHES:
        raise OperationFailedError(
            f"digest {shorten(digest)} is of an unknown kind: sha256 or sha512 is needed"
        )
    if _HASHES[algorithm](data).hexdigest() != expected:
        raise OperationFailedError(f"content {digest} is damaged ({len(data)} bytes)")


def parse(data: bytes, what: str) -> Mapping[str, Any]:
    """A JSON object, or an error that names *what*."""
    marks = sum(map(data.count, (b",", b"[", b"{")))
    if marks > MARKS:
        raise OperationFailedError(f"{what} has {marks} commas and brackets, more than {MARKS}")
    try:
        value = json.loads(data, parse_int=_whole)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise OperationFailedError(f"{what} is no JSON: {error}") from None
    return _object(value, what)


def _whole(text: str) -> int:
    """Python itself takes thousands of digits, and older ones a time that grows with their square."""
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits, more than {DIGITS}")
    return int(text)


def index_or_manifest(document: Mapping[str, Any], what: str) -> tuple[Descriptor, ...] | Manifest:
    """The entries of an index, or a manifest. Told apart by content: the media type is optional and often wrong."""
    if isinstance(document.get("manifests"), list):
        entries = _list(document["manifests"], f"manifests of {what}", MANIFESTS)
        return tuple(_descriptor(item, f"an entry of {what}") for item in entries)
    if "config" not in document:
        raise OperationFailedError(
            f"{what} is neither an image index nor an image manifest (schema 1 is not supported)"
        )
    layers = _list(document.get("layers"), f"layers of {what}", LAYERS)
    found = Manifest(
        _descriptor(document["config"], f"config of {what}"),
        tuple(_descriptor(item, f"a layer of {what}") for item in layers),
    )
    for descriptor in (found.config, *found.layers):
        if not is_digest(descriptor.digest):
            raise OperationFailedError(
                f"{what} names content by {shorten(descriptor.digest)}, which is not a digest"
            )
    return found


def media_type(document: Mapping[str, Any], claimed: str) -> str:
    """Of an index or manifest. Servers *claim* all kinds of types for JSON; other clients of containerd go by what is on record."""
    for name in (document.get("mediaType"), claimed):
        if name in MANIFEST_TYPES:
            return str(name)
    of_config = document.get("config")
    docker = isinstance(of_config, dict) and of_config.get("mediaType") == _DOCKER_CONFIG
    return MANIFEST_TYPES[0 if "manifests" in document else 3 if docker else 1]


def config(document: Mapping[str, Any], what: str) -> Config:
    run = _object(document.get("config") or {}, f"config of {what}")
    rootfs = _object(document.get("rootfs"), f"rootfs of {what}")
    image = ImageConfig(
        entrypoint=_texts(run.get("Entrypoint"), f"Entrypoint of {what}", WORDS, WORD),
        cmd=_texts(run.get("Cmd"), f"Cmd of {what}", WORDS, WORD),
        env=_texts(run.get("Env"), f"Env of {what}", WORDS, WORD),
        user=_text(run.get("User"), f"User of {what}"),
        working_dir=_text(run.get("WorkingDir"), f"WorkingDir of {what}"),
    )
    diff_ids = _texts(rootfs.get("diff_ids"), f"diff_ids of {what}", LAYERS)
    return Config(image, _platform(document, what), diff_ids)


def check_layers(manifest: Manifest, config: Config) -> None:
    """OperationFailedError unless each layer of the manifest has its diff_id in the configuration."""
    if len(config.diff_ids) != len(manifest.layers):
        raise OperationFailedError(
            f"{len(manifest.layers)} layers in the manifest, {len(config.diff_ids)} diff_ids in the configuration"
        )
    for diff_id in config.diff_ids:
        if not is_digest(diff_id):
            raise OperationFailedError(
                f"the configuration has diff_id {shorten(diff_id)}, which is not a digest"
            )


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Names of the snapshots that the layers unpack to, one on top of the other."""
    chain: list[str] = []
    for diff_id in diff_ids:
        name = diff_id
        if chain:
            name = "sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        chain.append(name)
    return tuple(chain)


def layer_type(media_type: str) -> str:
    """A layer's media type as every containerd from 1.6 on knows it: its name for Docker's zstd layers came later."""
    for ending, kind in (("zstd", "+zstd"), ("gzip", "+gzip"), ("tar", "")):
        if media_type.endswith(ending):
            return f"application/vnd.oci.image.layer.v1.tar{kind}"
    return media_type


def rank(platform: tuple[str, str, str], machine: str) -> int | None:
    """How well *platform* fits *machine*: 0 is best, None not at all."""
    system, architecture, variant = platform
    if architecture == "amd64" and variant in _AMD64_LEVELS:
        variant = ""
    wanted = ("linux", architecture, variant or _VARIANT.get(architecture, ""))
    fitting = [("linux", *item) for item in PLATFORMS.get(machine, ((machine, ""),))]
    return fitting.index(wanted) if system == "linux" and wanted in fitting else None


def show_platform(platform: tuple[str, str, str] | None) -> str:
    return shorten("/".join(part for part in platform if part))[1:-1] if platform else "unnamed"


def _descriptor(value: Any, what: str) -> Descriptor:
    item = _object(value, what)
    size = item.get("size")
    digest = _text(item.get("digest"), f"digest of {what}")
    if not digest or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise OperationFailedError(f"{what} has no digest and size: {shorten(dict(item))}")
    if size > BLOB:
        raise OperationFailedError(f"{what} has a size of {size} bytes, more than {BLOB}")
    platform = (
        _platform(_object(item["platform"], f"platform of {what}"), what) if item.get("platform") else None
    )
    media_type = _text(item.get("mediaType"), f"mediaType of {what}")
    return Descriptor(digest, size, media_type, platform, _annotations(item.get("annotations"), what))


def _annotations(value: Any, what: str) -> Mapping[str, str]:
    found = _object(value or {}, f"annotations of {what}")
    if len(found) > ANNOTATIONS:
        raise OperationFailedError(f"{what} has {len(found)} annotations, more than {ANNOTATIONS}")
    texts = {key: text for key, text in found.items() if isinstance(text, str)}
    for key, text in texts.items():
        _text(key, f"an annotation of {what}")
        _text(text, f"annotation {shorten(key)} of {what}", ANNOTATION)
    return texts


def _platform(item: Mapping[str, Any], what: str) -> tuple[str, str, str]:
    system = _text(item.get("os"), f"os of {what}")
    return (
        system,
        _text(item.get("architecture"), f"architecture of {what}"),
        _text(item.get("variant"), f"variant of {what}"),
    )


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OperationFailedError(f"{what} is no JSON object: {shorten(value)}")
    return value


def _list(value: Any, what: str, limit: int) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise OperationFailedError(f"{what}: a list is needed, not {shorten(value)}")
    if value and len(value) > limit:
        raise OperationFailedError(f"{what}: {len(value)} entries, more than {limit}")
    return value or []


def _text(value: Any, what: str, limit: int = TEXT) -> str:
    if value is not None and not isinstance(value, str):
        raise OperationFailedError(f"{what}: a text is needed, not {shorten(value)}")
    if value and len(value) > limit:
        raise OperationFailedError(f"{what}: {shorten(value)} has {len(value)} characters, more than {limit}")
    if value and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: JSON can hold it, protobuf cannot
            raise OperationFailedError(f"{what}: {shorten(value)} is not valid Unicode") from None
    return value or ""


def _texts(value: Any, what: str, count: int, limit: int = TEXT) -> tuple[str, ...]:
    return tuple(_text(item, what, limit) for item in _list(value, what, count))


#: An index may point to an index; containerd's tools never make more levels than this. Entries of an index without a platform that are
#: looked at for theirs; manifests, indexes and configurations that are read for one image.
INDEX_DEPTH, NAMELESS, DOCUMENTS = 3, 8, 32


@dataclass(frozen=True)
class Resolved:
    """`path`: the documents from the root to the manifest, each with the number of the entry that was chosen (-1: the manifest)."""

    manifest: Manifest
    config: Config
    path: tuple[tuple[Descriptor, bytes, int], ...]


class Resolver:
    """Finds what an index or manifest holds for *machine*, in at most DOCUMENTS documents. *nothing*: how the error begins if it is
    nothing. *document* and *config* read a document, the latter, *document* unless given, a configuration.
    """

    def __init__(
        self,
        nothing: str,
        machine: str,
        document: Callable[[Descriptor], Awaitable[bytes]],
        config: Callable[[Descriptor], Awaitable[bytes]] | None = None,
    ) -> None:
        self._nothing = nothing
        self._machine = machine
        self._document = document
        self._config = config or document
        self._left = DOCUMENTS

    async def resolve(self, root: Descriptor, data: bytes | None = None) -> Resolved:
        """*data*: the root's document, if it is at hand."""
        return await self._resolve(root, data, INDEX_DEPTH)

    async def _resolve(self, root: Descriptor, data: bytes | None, depth: int) -> Resolved:
        what = f"manifest {shorten(root.digest)[1:-1]}"
        if data is None:
            data = await self._read(self._document, root, what)
        found = index_or_manifest(parse(data, what), what)
        if isinstance(found, Manifest):
            config = await self._configuration(found.config, what)
            check_layers(found, config)
            return Resolved(found, config, ((root, data, -1),))
        if depth == 0:
            raise OperationFailedError(f"{what}: indexes are nested more than {INDEX_DEPTH} deep")
        number, below = await self._best(found, depth - 1)
        below = below or await self._resolve(found[number], None, depth - 1)
        return Resolved(below.manifest, below.config, ((root, data, number), *below.path))

    async def _configuration(self, descriptor: Descriptor, whose: str) -> Config:
        if descriptor.size > DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{whose} has a configuration of {descriptor.size} bytes, more than {DOCUMENT_LIMIT}"
            )
        what = f"configuration {descriptor.digest}"
        data = await self._read(self._config, descriptor, what)
        return config(parse(data, what), what)

    async def _read(
        self, read: Callable[[Descriptor], Awaitable[bytes]], descriptor: Descriptor, what: str
    ) -> bytes:
        if self._left == 0:
            raise OperationFailedError(f"{what}: more than {DOCUMENTS} documents to read for one image")
        self._left -= 1
        return await read(descriptor)

    async def _best(self, entries: Sequence[Descriptor], depth: int) -> tuple[int, Resolved | None]:
        """The number of the entry that fits the machine best, and what was found below it if that was looked at."""
        best: tuple[int, int, Resolved | None] | None = None
        nameless: set[str] = set()
        for number, entry in enumerate(entries):
            platform, below = entry.platform, None
            if platform is None and entry.digest not in nameless and len(nameless) < NAMELESS:
                nameless.add(entry.digest)
                below = await self._look(entry, depth)
                platform = below.config.platform if below else None
            fit = rank(platform, self._machine) if platform else None
            if fit is not None and (best is None or fit < best[0]):
                best = fit, number, below
        if best is None:
            offered = ", ".join(show_platform(entry.platform) for entry in entries[:10]) or "nothing"
            raise OperationFailedError(f"{self._nothing} for this machine ({self._machine}), only {offered}")
        return best[1], best[2]

    async def _look(self, entry: Descriptor, depth: int) -> Resolved | None:
        """Below an entry that names no platform. None if it is not here, or is no image (a signature, a list of contents)."""
        try:
            return await self._resolve(entry, None, depth)
        except (NotFoundError, OperationFailedError):
            if self._left == 0:
                raise
            return None


#: How much bigger a layer is once unpacked. No more than a guess for compressed ones; while unpacking, free space is watched.
_GROWTH = (("zstd", 3.0), ("gzip", 2.5))


def unpacked(layer: Descriptor) -> int:
    """Bytes that *layer* probably takes unpacked."""
    factor = next((factor for ending, factor in _GROWTH if layer.media_type.endswith(ending)), 1.0)
    return int(layer.size * factor)
