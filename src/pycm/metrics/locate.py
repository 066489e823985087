# SPDX-License-Identifier: Apache-2.0
"""Where the cgroups of a container lie in the file system: from the texts of /proc/self/mountinfo and /proc/PID/cgroup. Pure.

Three kinds of host: cgroup v2 alone; v1 alone, one mount point a controller; hybrid, where v1 has controllers and a v2 tree beside it
has the others, and counts pressure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from posixpath import basename, normpath

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A cgroup hierarchy: where it is mounted, and which part of it (`root`) is seen there."""

    point: str
    root: str

    def directory(self, path: str) -> str | None:
        """The directory of cgroup *path*; None for the top, which counts the whole machine, and for what lies outside."""
        if self.root != "/" and (path == self.root or path.startswith(f"{self.root}/")):
            path = path[len(self.root) :]
        parts = path.split("/")
        return None if not path.strip("/") or ".." in parts else normpath(f"{self.point}/{path}")


@dataclass(frozen=True)
class Mounts:
    unified: Mount | None = None
    controllers: dict[str, Mount] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """The directories of one container's cgroup: in the v2 tree, and for each v1 controller."""

    unified: str | None = None
    controllers: dict[str, str] = field(default_factory=dict)


def parse_mounts(text: str) -> Mounts:
    """The cgroup mounts of a mountinfo; of several mounts of one hierarchy the first counts."""
    unified: Mount | None = None
    controllers: dict[str, Mount] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if kind[0] == "cgroup2" and unified is None:
            unified = _mount(fields)
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                controllers.setdefault(option, _mount(fields))
    return Mounts(unified, controllers)


def _mount(fields: list[str]) -> Mount:
    return Mount(_plain(fields[4]), _plain(fields[3]))


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def places(mounts: Mounts, proc_cgroup: str, container_id: str) -> Places:
    """The directories of the container whose first process has *proc_cgroup* as its /proc/PID/cgroup."""
    paths = {}
    for line in proc_cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = _own(path, container_id)
    found = {
        name: directory
        for name, path in paths.items()
        if name in mounts.controllers and (directory := mounts.controllers[name].directory(path))
    }
    return Places(_unified(mounts, paths, found), found)


def _own(path: str, container_id: str) -> str:
    """*path* up to the container's own cgroup: a service manager within a container moves itself further down."""
    parts = path.split("/")
    named = [index for index, part in enumerate(parts) if container_id in part]
    return "/".join(parts[: named[-1] + 1]) if named else path


def _unified(mounts: Mounts, paths: dict[str, str], found: dict[str, str]) -> str | None:
    """The v2 directory; on a hybrid host only if it is the container's own, since older runc leave it where containerd is."""
    if mounts.unified is None or "" not in paths:
        return None
    directory = mounts.unified.directory(paths[""])
    if found and directory and basename(directory) not in {basename(path) for path in found.values()}:
        return None
    return directory
