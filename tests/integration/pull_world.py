# SPDX-License-Identifier: Apache-2.0
"""What tests of pulls share: a puller that runs worker processes, images that were never there before, and looks into containerd."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from images import Image, base_layer, layer

from pycm.errors import PycmError
from pycm.registry.job import Access, Job, News
from pycm.registry.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from containerd_server import ContainerdServer
    from hostile_registry import Request

BASE = base_layer()
INSECURE = Access(insecure=True)


def puller(containerd: ContainerdServer) -> Callable[..., News]:
    """Pulls a reference by a worker process; further arguments are a Job's."""

    def do(reference: str, access: Access = INSECURE, **more: Any) -> News:
        job = Job(containerd.address, containerd.namespace, "overlayfs", "test", reference, access=access)
        return asyncio.run(Workers().run(job._replace(**more), lambda _: None))

    return do


def images(containerd: ContainerdServer) -> set[str]:
    return {line.split()[0] for line in containerd.ctr("images", "ls").splitlines()[1:]}


def leases(containerd: ContainerdServer) -> set[str]:
    return set(containerd.ctr("leases", "ls", "-q").split())


def noise(size: int) -> bytes:
    """A layer of *size* random bytes: no two pulls share it, and nothing compresses it."""
    return layer({"noise": os.urandom(size)})


def fresh(**more: Any) -> Image:
    """An image that was never there before."""
    return Image(layers=[BASE, noise(2000)], **more)


def refused(pull: Callable[..., News], reference: str, **more: Any) -> PycmError:
    with pytest.raises(PycmError) as caught:
        pull(reference, **more)
    assert "\n" not in str(caught.value)
    return caught.value


def cut_each_after(size: int) -> Callable[[Request], bool]:
    """Every blob's answer ends after *size* bytes."""

    def answer(request: Request) -> bool:
        registry = request.server.owner
        blob = registry.blobs.get(request.path.rpartition("/")[2], b"")
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        if len(blob) - begin <= size:
            return False
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(blob) - begin))
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(blob) - 1}/{len(blob)}")
        request.end_headers()
        request.wfile.write(blob[begin : begin + size])
        request.cut()
        return True

    return answer
