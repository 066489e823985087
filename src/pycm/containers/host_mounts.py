# SPDX-License-Identifier: Apache-2.0
"""Mounts by which a container can reach what rules the machine: they are allowed, as in the original, and named in the log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pycm.model.container import Container

_HOST = {
    "/": "the whole file system of the machine",
    "/proc": "the kernel's view of all processes",
    "/sys": "the kernel's settings",
    "/dev": "all devices",
    "/etc": "the machine's configuration",
    "/boot": "what the machine boots",
}


def told(container: Container, sockets: Iterable[str], state: Iterable[str]) -> Iterator[str]:
    """A phrase for each such mount. *sockets*: who speaks there rules all containers; *state*: directories of the agent's own."""
    for mount in container.mount_points:
        source = "/" + os.path.normpath(mount.source).lstrip("/")
        if what := _HOST.get(source):
            yield f"{source} ({what})"
            continue
        for path in sockets:
            if _within(path, source):
                yield f"{source} (with {path}, by which all containers can be commanded)"
        for path in state:
            if _within(path, source) or _within(source, path):
                yield f"{source} (state of the agent: {path})"


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
