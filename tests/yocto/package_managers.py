# SPDX-License-Identifier: Apache-2.0
"""dpkg, rpm and opkg at work in a root directory of their own.

Debian has no package of opkg. Where PYCM_OPKG names the program, it is run; elsewhere the same solver decides (opkg_solver.py, as opkg
of the releases is built with libsolv), and files are unpacked by dpkg-deb.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from layer_support import HERE
from package_files import control

OPKG = os.environ.get("PYCM_OPKG", "")


class RefusedError(Exception):
    """What the package manager printed when it refused."""


class Manager:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)

    def call(self, *command: str | Path) -> str:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "D": str(self.root)}
        done = subprocess.run(
            [str(word) for word in command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RefusedError(done.stdout + done.stderr)
        return done.stdout

    def install(self, *packages: Path) -> None:
        raise NotImplementedError

    def remove(self, *names: str) -> None:
        raise NotImplementedError

    def installed(self) -> set[str]:
        raise NotImplementedError


class Dpkg(Manager):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for name in ("info", "updates"):
            (root / "var/lib/dpkg" / name).mkdir(parents=True)
        for name in ("status", "available"):
            (root / "var/lib/dpkg" / name).touch()

    def _dpkg(self, *words: str | Path) -> str:
        options = ("--force-architecture", "--force-script-chrootless", "--force-unsafe-io")
        return self.call("dpkg", f"--root={self.root}", *options, *words)

    def install(self, *packages: Path) -> None:
        self._dpkg("--install", *packages)

    def remove(self, *names: str) -> None:
        self._dpkg("--remove", *names)

    def installed(self) -> set[str]:
        shown = self.call("dpkg-query", f"--root={self.root}", "-W", "-f=${db:Status-Abbrev}${Package}\n")
        return {line[3:] for line in shown.splitlines() if line.startswith("ii")}


class Rpm(Manager):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._rpm("--initdb")

    def _rpm(self, *words: str | Path) -> str:
        return self.call("rpm", "--root", self.root, "--dbpath", "/var/lib/rpm", *words)

    def install(self, *packages: Path) -> None:
        self._rpm("--upgrade", "--noscripts", "--ignorearch", *packages)

    def remove(self, *names: str) -> None:
        self._rpm("--erase", "--noscripts", *names)

    def installed(self) -> set[str]:
        return set(self._rpm("--query", "--all", "--queryformat", "%{NAME}\n").split())


class Opkg(Manager):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.conf = root.with_name(f"{root.name}.conf")
        self.conf.write_text(
            "dest root /\narch all 1\narch noarch 1\narch cortexa57 10\narch aarch64 5\n"
            f"option lock_file {root}.lock\n"
        )

    def _opkg(self, *words: str | Path) -> str:
        return self.call(OPKG, "--conf", self.conf, "--offline-root", self.root, *words)

    def install(self, *packages: Path) -> None:
        self._opkg("install", *packages)

    def remove(self, *names: str) -> None:
        self._opkg("remove", *names)

    def installed(self) -> set[str]:
        return {line.split()[0] for line in self._opkg("list-installed").splitlines()}


class SolvedOpkg(Manager):
    """The packages that are installed are kept as files; the solver says which go and which come."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.present: dict[str, Path] = {}

    def _solve(self, files: tuple[Path, ...], names: tuple[str, ...]) -> None:
        request = {
            "installed": [control(path) for path in self.present.values()],
            "wanted": {str(path): control(path) for path in files},
            "removed": names,
        }
        done = subprocess.run(
            ["/usr/bin/python3", HERE / "opkg_solver.py"],
            input=json.dumps(request), capture_output=True, text=True, check=True,
        )  # fmt: skip
        answer = json.loads(done.stdout)
        if answer["problems"]:
            raise RefusedError("\n".join(answer["problems"]))
        for name in answer["erased"]:
            self._erase(self.present.pop(name))
        for file in answer["installed"]:
            self._unpack(Path(file))

    def _files(self, path: Path) -> set[str]:
        shown = self.call("sh", "-c", f"dpkg-deb --fsys-tarfile '{path}' | tar -t")
        return {name.removeprefix("./") for name in shown.splitlines() if not name.endswith("/")}

    def _erase(self, package: Path) -> None:
        for name in self._files(package):
            (self.root / name).unlink()

    def _unpack(self, package: Path) -> None:
        for other in self.present.values():
            if shared := self._files(other) & self._files(package):
                raise RefusedError(f"{package.name} and {other.name} both have {sorted(shared)}")
        self.call("dpkg-deb", "--extract", package, self.root)
        self.present[package.name.partition("_")[0]] = package

    def install(self, *packages: Path) -> None:
        self._solve(packages, ())

    def remove(self, *names: str) -> None:
        self._solve((), names)

    def installed(self) -> set[str]:
        return set(self.present)


def manager(kind: str, root: Path) -> Manager:
    return {"deb": Dpkg, "rpm": Rpm, "ipk": Opkg if OPKG else SolvedOpkg}[kind](root)
