# SPDX-License-Identifier: Apache-2.0
"""Small OCI image archives made on the spot from the machine's static busybox, for `ctr images import`.

No network and no registry is needed: one uncompressed layer with busybox and a few links is an image that containerd takes. The
pieces can be spoiled one by one (another architecture, other configuration bytes), so that tests see how damaged images are met.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

APPLETS = (
    "sh",
    "sleep",
    "cat",
    "echo",
    "ls",
    "dd",
    "head",
    "yes",
    "true",
    "false",
    "id",
    "env",
    "kill",
    "mount",
    "stty",
    "httpd",
    "wget",
)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
#: The image of the tests' containers, where nothing else is said.
IMAGE = "registry.test/pycm/app:1.0"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
#: Docker's names of the same things.
DOCKER = {
    MANIFEST: "application/vnd.docker.distribution.manifest.v2+json",
    INDEX: "application/vnd.docker.distribution.manifest.list.v2+json",
    CONFIG: "application/vnd.docker.container.image.v1+json",
    LAYER: "application/vnd.docker.image.rootfs.diff.tar",
}


def busybox() -> str:
    """Path of the static busybox; a clear failure if Debian's busybox-static is missing."""
    path = shutil.which("busybox")
    assert path, "busybox is missing: apt-get install busybox-static"
    return path


def own_architecture() -> str:
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


def _entry(
    tar: tarfile.TarFile, path: str, data: bytes = b"", mode: int = 0o755, link: str = "", kind: bytes = b""
) -> None:
    info = tarfile.TarInfo(path)
    info.mode, info.size, info.linkname = mode, len(data), link
    info.type = kind or (tarfile.SYMTYPE if link else tarfile.REGTYPE)
    tar.addfile(info, io.BytesIO(data))


def layer(
    files: Mapping[str, bytes], directories: Sequence[str] = (), links: Mapping[str, str] | None = None
) -> bytes:
    """An uncompressed layer; a file named ".wh.NAME" deletes NAME of the layers below, as in every OCI image."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in directories:
            _entry(tar, directory, kind=tarfile.DIRTYPE)
        for path, data in files.items():
            _entry(tar, path, data, 0o755 if path.startswith("bin/") else 0o644)
        for path, target in (links or {}).items():
            _entry(tar, path, link=target)
    return out.getvalue()


def base_layer() -> bytes:
    with open(busybox(), "rb") as file:
        files = {
            "bin/busybox": file.read(),
            "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
        }
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    return layer(files, ("bin", "etc", "proc", "sys", "dev", "tmp"), links)


@dataclass
class Image:
    """What goes into the archive. `config` is the "config" object of the image configuration; `platform` may be emptied."""

    name: str = "localhost/pycm/busybox:1"
    config: Mapping[str, Any] = field(default_factory=lambda: {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})
    layers: Sequence[bytes] = field(default_factory=lambda: [base_layer()])
    architecture: str = field(default_factory=own_architecture)
    config_bytes: bytes | None = None  # instead of what `config` makes
    diff_ids: Sequence[str] | None = None  # instead of the true ones
    #: "", "+gzip" or "+zstd", as the layers' media types end.
    compression: str = ""

    def compress(self, layer: bytes) -> bytes:
        if self.compression == "+gzip":
            return gzip.compress(layer, mtime=0)
        if self.compression == "+zstd":
            return subprocess.run(
                ["zstd", "-q", "-c"], input=layer, stdout=subprocess.PIPE, check=True
            ).stdout
        return layer


class _Blobs(dict[str, bytes]):
    def put(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        self[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def put_json(self, value: Any, media_type: str) -> dict[str, Any]:
        return self.put(json.dumps(value, sort_keys=True).encode(), media_type)


def _config(image: Image, layers: list[dict[str, Any]]) -> bytes:
    diff_ids = image.diff_ids if image.diff_ids is not None else [item["digest"] for item in layers]
    value = {
        "architecture": image.architecture,
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return json.dumps(value, sort_keys=True).encode()


def document_and_blobs(image: Image, *, docker: bool = False) -> tuple[str, bytes, dict[str, bytes]]:
    """The manifest's media type, the manifest, and the blobs by digest."""
    blobs = _Blobs()
    manifest = _put_image(blobs, image, docker=docker)
    digest = manifest["digest"].partition(":")[2]
    document = blobs.pop(digest)
    return manifest["mediaType"], document, {f"sha256:{name}": data for name, data in blobs.items()}


def _put_image(blobs: _Blobs, image: Image, *, docker: bool = False) -> dict[str, Any]:
    """The descriptor of its manifest."""

    def kind(name: str) -> str:
        return DOCKER[name] if docker else name

    layers, plain = [], []
    for data in image.layers:
        plain.append({"digest": "sha256:" + hashlib.sha256(data).hexdigest()})
        layers.append(blobs.put(image.compress(data), kind(LAYER) + image.compression))
    config_bytes = image.config_bytes if image.config_bytes is not None else _config(image, plain)
    config = blobs.put(config_bytes, kind(CONFIG))
    return blobs.put_json(
        {"schemaVersion": 2, "mediaType": kind(MANIFEST), "config": config, "layers": layers}, kind(MANIFEST)
    )


def write_archive(path: Path, image: Image) -> Path:
    """Write *image* as an OCI image archive to *path*, ready for `ctr images import`."""
    blobs = _Blobs()
    manifest = _put_image(blobs, image)
    manifest["platform"] = {"architecture": image.architecture, "os": "linux"}
    inner = blobs.put_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}, INDEX)
    inner["annotations"] = {"io.containerd.image.name": image.name}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        _entry(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644)
        _entry(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [inner]}).encode(), 0o644)
        for digest, data in blobs.items():
            _entry(tar, f"blobs/sha256/{digest}", data, 0o644)
    return path
