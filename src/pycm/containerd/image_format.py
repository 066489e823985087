# SPDX-License-Identifier: Apache-2.0
"""OCI and Docker image documents: which manifest of an index fits this machine, and what a configuration says. No I/O.

Images come from anywhere, so this module trusts nothing: an invalid document raises OperationFailedError with one line
that names the document and the reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import NotFoundError, OperationFailedError, shorten
from pycm.ports import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

#: Bounds on what a document may hold, all far beyond real images (docs/images.md). Bytes of a document: registries
#: refuse larger ones.
DOCUMENT_LIMIT = 4 << 20
#: Commas and opening brackets in a document, also inside strings: Python needs up to 200 bytes and 1 µs for each value.
MARKS = 200_000
#: Entries of an index, layers of an image (and diff_ids), annotations of a descriptor.
MANIFESTS, LAYERS, ANNOTATIONS = 1000, 500, 256
#: Entries of Entrypoint, Cmd and Env each, and characters of one entry (MAX_ARG_STRLEN of the kernel).
WORDS, WORD = 4096, (128 << 10) - 1
#: Characters of other strings and of an annotation's value; bytes of a blob; digits of a number.
TEXT, ANNOTATION, BLOB, DIGITS = 4096, 64 << 10, 1 << 40, 20
#: Levels of indexes below an index: containerd's tools never make more. Entries without a platform whose configuration
#: is read. Manifests, indexes and configurations that are read for one image.
INDEX_DEPTH, NAMELESS, DOCUMENTS = 3, 8, 32
#: Characters of a reference in a message.
QUOTED = 200
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}

#: OCI's index and manifest, then Docker's.
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_ARM = tuple(("arm", variant) for variant in ("v8", "v7", "v6", "v5"))
#: What a machine (uname -m) runs, best first, as (architecture, variant) of the image specification. The default
#: variants are v8 of arm64 and v7 of arm.
# fmt: off
PLATFORMS: Mapping[str, Sequence[tuple[str, str]]] = {
    "x86_64":      (("amd64", ""), ("386", "")),
    "i686":        (("386", ""),),
    "aarch64":     (("arm64", "v8"), *_ARM),
    "armv8l":      _ARM,
    "armv7l":      _ARM[1:],
    "armv6l":      _ARM[2:],
    "armv5tel":    _ARM[3:],
    "riscv64":     (("riscv64", ""),),
    "ppc64le":     (("ppc64le", ""),),
    "s390x":       (("s390x", ""),),
    "loongarch64": (("loong64", ""),),
}
# fmt: on
_VARIANT = {"arm64": "v8", "arm": "v7"}
_AMD64_LEVELS = ("v1", "")  # images for x86-64 level 2 or higher do not fit: the machine may lack it
#: How much larger a layer is once unpacked: a guess. While a layer is unpacked, pycm watches the free space.
_GROWTH = (("zstd", 3.0), ("gzip", 2.5))
_NO_ANNOTATIONS: Mapping[str, str] = {}


class Descriptor(NamedTuple):
    """A reference to content. `platform` is (os, architecture, variant), None if the index does not give one."""

    digest: str
    size: int
    media_type: str = ""
    platform: tuple[str, str, str] | None = None
    annotations: Mapping[str, str] = _NO_ANNOTATIONS


class Manifest(NamedTuple):
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Config(NamedTuple):
    """An image configuration: what to run, on which platform, and the digests of the unpacked layers."""

    image: ImageConfig
    platform: tuple[str, str, str]
    diff_ids: tuple[str, ...]


def quote(reference: str) -> str:
    """Return a reference as Kanto's messages show it: in double quotes, here escaped and shortened."""
    text = json.dumps(reference)
    return text if len(text) <= QUOTED else text[: QUOTED - 2] + '…"'


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def verify(digest: str, data: bytes) -> None:
    """Raise OperationFailedError unless *data* has this digest."""
    algorithm, _, expected = digest.partition(":")
    if algorithm not in _HASHES:
        raise OperationFailedError(f"digest {shorten(digest)} is neither sha256 nor sha512")
    if _HASHES[algorithm](data).hexdigest() != expected:
        raise OperationFailedError(f"content {digest} is damaged ({len(data)} bytes)")


def parse(data: bytes, what: str) -> Mapping[str, Any]:
    """Return the JSON object in *data*. Errors name *what*."""
    marks = sum(map(data.count, (b",", b"[", b"{")))
    if marks > MARKS:
        raise OperationFailedError(f"{what} has {marks} commas and brackets, more than {MARKS}")
    try:
        value = json.loads(data, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise OperationFailedError(f"{what} is not JSON: {error}") from None
    return _object(value, what)


def _parse_int(text: str) -> int:
    """Python alone accepts thousands of digits, and older versions need a time that grows with their square."""
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits, more than {DIGITS}")
    return int(text)


def read_manifest(document: Mapping[str, Any], what: str) -> tuple[Descriptor, ...] | Manifest:
    """Return the entries of an index, or a manifest.

    The content decides which: the media type is optional and often wrong.
    """
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


def choose_media_type(document: Mapping[str, Any], claimed: str) -> str:
    """Return the type of an index or manifest.

    Servers *claim* many types for JSON; other clients of containerd trust the record.
    """
    for name in (document.get("mediaType"), claimed):
        if name in MANIFEST_TYPES:
            return str(name)
    of_config = document.get("config")
    docker = isinstance(of_config, dict) and of_config.get("mediaType") == _DOCKER_CONFIG
    return MANIFEST_TYPES[0 if "manifests" in document else 3 if docker else 1]


def read_config(document: Mapping[str, Any], what: str) -> Config:
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
    """Raise OperationFailedError unless each layer of the manifest has its diff_id in the configuration."""
    if len(config.diff_ids) != len(manifest.layers):
        raise OperationFailedError(
            f"{len(manifest.layers)} layers in the manifest, {len(config.diff_ids)} diff_ids in the configuration"
        )
    for diff_id in config.diff_ids:
        if not is_digest(diff_id):
            raise OperationFailedError(
                f"the configuration has diff_id {shorten(diff_id)}, which is not a digest"
            )


def make_chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the snapshots that the layers unpack to, bottom first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        name = diff_id
        if chain:
            name = "sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        chain.append(name)
    return tuple(chain)


def make_layer_type(media_type: str) -> str:
    """Return the media type that every containerd from 1.6 on knows: zstd layers of Docker have a later name."""
    for ending, kind in (("zstd", "+zstd"), ("gzip", "+gzip"), ("tar", "")):
        if media_type.endswith(ending):
            return f"application/vnd.oci.image.layer.v1.tar{kind}"
    return media_type


def estimate_unpacked(layer: Descriptor) -> int:
    """Return the bytes that *layer* probably needs once unpacked."""
    factor = next((factor for ending, factor in _GROWTH if layer.media_type.endswith(ending)), 1.0)
    return int(layer.size * factor)


def rank(platform: tuple[str, str, str], machine: str) -> int | None:
    """Rate how well *platform* fits *machine*: 0 is best, None means not at all."""
    system, architecture, variant = platform
    if architecture == "amd64" and variant in _AMD64_LEVELS:
        variant = ""
    wanted = (architecture, variant or _VARIANT.get(architecture, ""))
    fitting = list(PLATFORMS.get(machine, ((machine, ""),)))
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
    given = item.get("platform")
    platform = _platform(_object(given, f"platform of {what}"), what) if given else None
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
    system, architecture, variant = (
        _text(item.get(key), f"{key} of {what}") for key in ("os", "architecture", "variant")
    )
    return system, architecture, variant


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OperationFailedError(f"{what} is not a JSON object: {shorten(value)}")
    return value


def _list(value: Any, what: str, limit: int) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise OperationFailedError(f"{what}: expected a list, got {shorten(value)}")
    if value and len(value) > limit:
        raise OperationFailedError(f"{what}: {len(value)} entries, more than {limit}")
    return value or []


def _text(value: Any, what: str, limit: int = TEXT) -> str:
    if value is not None and not isinstance(value, str):
        raise OperationFailedError(f"{what}: expected a string, got {shorten(value)}")
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


class Resolved(NamedTuple):
    """`path`: the documents from the root to the manifest, each with the number of the chosen entry (-1 for the
    manifest).
    """

    manifest: Manifest
    config: Config
    path: tuple[tuple[Descriptor, bytes, int], ...]


class Resolver:
    """Finds what an index or manifest holds for *machine*, and reads at most DOCUMENTS documents for it.

    *document* and *config* read a document; *config*, which defaults to *document*, reads configurations. *nothing* is
    the start of the error for an index without a fitting entry.
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

    async def resolve(
        self, root: Descriptor, data: bytes | None = None, depth: int = INDEX_DEPTH
    ) -> Resolved:
        """*data*: the document of *root*, if the caller has it."""
        what = f"manifest {shorten(root.digest)[1:-1]}"
        if data is None:
            data = await self._read(self._document, root, what)
        found = read_manifest(parse(data, what), what)
        if isinstance(found, Manifest):
            config = await self._configuration(found.config, what)
            check_layers(found, config)
            return Resolved(found, config, ((root, data, -1),))
        if depth == 0:
            raise OperationFailedError(f"{what}: indexes are nested more than {INDEX_DEPTH} deep")
        number, below = await self._best(found, depth - 1)
        below = below or await self.resolve(found[number], None, depth - 1)
        return Resolved(below.manifest, below.config, ((root, data, number), *below.path))

    async def _configuration(self, descriptor: Descriptor, whose: str) -> Config:
        if descriptor.size > DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{whose} has a configuration of {descriptor.size} bytes, more than {DOCUMENT_LIMIT}"
            )
        what = f"configuration {descriptor.digest}"
        return read_config(parse(await self._read(self._config, descriptor, what), what), what)

    async def _read(
        self, read: Callable[[Descriptor], Awaitable[bytes]], descriptor: Descriptor, what: str
    ) -> bytes:
        if self._left == 0:
            raise OperationFailedError(f"{what}: one image needs more than {DOCUMENTS} documents")
        self._left -= 1
        return await read(descriptor)

    async def _best(self, entries: Sequence[Descriptor], depth: int) -> tuple[int, Resolved | None]:
        """Return the number of the entry that fits the machine best, and what is below it if that was read."""
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
        """Resolve an entry without a platform.

        None if it is not here, or is not an image (a signature, a list of contents).
        """
        try:
            return await self.resolve(entry, None, depth)
        except (NotFoundError, OperationFailedError):
            if self._left == 0:
                raise
            return None
