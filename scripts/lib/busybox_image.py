# SPDX-License-Identifier: Apache-2.0
"""Make a small container image from a static busybox: busybox_image.py BUSYBOX ARCHITECTURE REFERENCE OUT.tar

One layer, OCI layout, for `ctr images import`. The demo and the guest test need an image and no registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

APPLETS = ("sh", "cat", "date", "dd", "echo", "false", "head", "ls", "nc", "sleep", "true", "wget", "yes")
DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp")
OCI = "application/vnd.oci.image"


def layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in DIRECTORIES:
            add(tar, name, kind=tarfile.DIRTYPE)
        add(tar, "bin/busybox", busybox)
        for name in APPLETS:
            add(tar, f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox")
        add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", mode=0o644)
    return buffer.getvalue()


def add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    mode: int = 0o755,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
) -> None:
    """Add a member without owner and time: the same input makes the same image."""
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.linkname, member.size = mode, kind, link, len(data)
    tar.addfile(member, io.BytesIO(data))


class Blobs(dict[str, bytes]):
    """Content by SHA-256."""

    def put(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Store *data* and return its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def put_json(self, value: object, media_type: str) -> dict[str, Any]:
        return self.put(json.dumps(value, sort_keys=True).encode(), media_type)


def write_image(busybox: Path, architecture: str, reference: str, out: Path) -> None:
    blobs = Blobs()
    content = blobs.put(layer(busybox.read_bytes()), f"{OCI}.layer.v1.tar")
    platform = {"architecture": architecture, "os": "linux"}
    config = {
        **platform,
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [content["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blobs.put_json(config, f"{OCI}.config.v1+json"),
        "layers": [content],
    }
    entry = blobs.put_json(manifest, f"{OCI}.manifest.v1+json")
    entry |= {"platform": platform, "annotations": {"io.containerd.image.name": reference}}
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', mode=0o644)
        add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), mode=0o644)
        for digest, data in blobs.items():
            add(tar, f"blobs/sha256/{digest}", data, mode=0o644)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    write_image(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
