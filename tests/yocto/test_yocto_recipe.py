# SPDX-License-Identifier: Apache-2.0
"""The recipe, read and run by BitBake's own library from the work tree: what it installs, and which package gets what."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from layer_support import RELEASES, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layer_support import Built

SOURCES = REPOSITORY / "src"
PROGRAMS = {
    "usr/bin/pycm": "pycm-cli",
    "usr/bin/pycmd": "pycm",
}
LINKS = {
    "usr/bin/container-management": "pycmd",
    "usr/bin/kanto-cm": "pycm",
    "usr/lib/systemd/system/container-management.service": "pycm.service",
}
"""Kanto's names, all in pycm-kanto."""
OTHERS = {
    "etc/container-management/config.toml": "pycm-conf",
    "usr/lib/systemd/system/pycm.service": "pycm",
    "usr/share/pycm/containerd.toml": "pycm",
    "usr/share/pycm/mosquitto.conf": "pycm",
}
METADATA = ("INSTALLER", "LICENSE", "METADATA", "RECORD", "WHEEL", "entry_points.txt")


AGENT = {"__init__", "daemon", "line", "main"}
"""Files of pycm/cli that the program pycmd imports; test_the_agent_starts_without_the_command_line holds it."""


def modules() -> Iterator[Path]:
    for path in SOURCES.glob("pycm/**/*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(SOURCES)


def python_files(built: Built) -> dict[str, str]:
    """Each file of the source, in a package of its own, its byte code, and the package that this belongs to."""
    site = f"usr/lib/python{built.release.python}/site-packages"
    expected = {}
    for name in modules():
        if name.suffix in {".py", ".pyi", ".proto"}:
            expected[f"usr/src/{name}"] = "pycm-source"
        if name.suffix == ".py":
            command = name.parent == Path("pycm/cli") and name.stem not in AGENT
            expected[f"{site}/{name}c"] = "pycm-cli" if command else "pycm"
    return expected


def expected(built: Built) -> dict[str, str]:
    site = f"usr/lib/python{built.release.python}/site-packages"
    metadata = {f"{site}/leda_pycm-0.1.0.dist-info/{name}": "pycm" for name in METADATA}
    return {**python_files(built), **metadata, **PROGRAMS, **dict.fromkeys(LINKS, "pycm-kanto"), **OTHERS}


def installed(built: Built) -> set[str]:
    return {name for name in built.installed() if "ptest" not in Path(name).parts}


def licence_of(path: str) -> str:
    """flit_core 3.12 puts the licence into a directory of its own."""
    return path.replace("/licenses/LICENSE", "/LICENSE")


def test_the_installed_tree_is_what_is_expected_file_by_file(built: Built) -> None:
    found = {licence_of(path) for path in installed(built)}
    wanted = set(expected(built))
    assert sorted(found - wanted) == []
    assert sorted(wanted - found) == []


def test_each_file_is_in_the_package_it_belongs_to(built: Built) -> None:
    wanted = expected(built)
    placed = {licence_of(path): built.package_of(path) for path in installed(built)}
    assert {path: package for path, package in placed.items() if wanted[path] != package} == {}


def test_programs_start_from_the_installed_tree(built: Built) -> None:
    site = built.image / f"usr/lib/python{built.release.python}/site-packages"
    for program in (*PROGRAMS, *(name for name in LINKS if name.startswith("usr/bin/"))):
        path = built.image / program
        assert path.read_text().startswith("#!/usr/bin/env python3\n")
        assert os.access(path, os.X_OK)
        environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-P", str(path), "--help"] if sys.version_info >= (3, 11) else [sys.executable, str(path), "--help"],
            env=environment, capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout or "usage" in done.stdout


def test_byte_code_takes_the_place_of_the_source_and_names_it(built: Built) -> None:
    compiled = [path for path in built.image.rglob("*.pyc") if "ptest" not in path.parts]
    assert compiled
    for path in compiled:
        content = path.read_bytes()
        # PEP 552: bit 0 says that the file is identified by a hash, which makes it the same at each build
        assert int.from_bytes(content[4:8], "little") == 1, path
        assert str(built.image).encode() not in content, path
    code = marshal.loads(built.module("pycm/agent.pyc").read_bytes()[16:])
    assert code.co_filename == "/usr/src/pycm/agent.py"
    assert (built.image / code.co_filename[1:]).is_file()


def test_the_agent_starts_without_the_command_line(built: Built, tmp_path: Path) -> None:
    site = f"usr/lib/python{built.release.python}/site-packages"
    for name, package in expected(built).items():
        if package == "pycm" and name.startswith(f"{site}/pycm/"):
            target = tmp_path / Path(name).relative_to(site)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((built.image / name).read_bytes())
    for module in ("pycm.cli.main", "pycm.cli.daemon", "pycm.agent", "pycm.registry.worker"):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        code = (
            f"import {module} as found; assert found.__file__.startswith({str(tmp_path)!r}), found.__file__"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_every_wheel_has_the_same_files(built: Built) -> None:
    wheel = min(Path(built.work, "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as file:
        names = {licence_of(name) for name in file.namelist()}
    source = {str(name) for name in modules()}
    info = {f"leda_pycm-0.1.0.dist-info/{name}" for name in METADATA if name != "INSTALLER"}
    assert names == source | info, f"flit_core {built.release.flit}"
    assert len({release.flit for release in RELEASES}) == 3


def test_distribution_is_called_leda_pycm_and_its_module_pycm(built: Built) -> None:
    """PyPI has another pycm: its version and its vulnerabilities would be taken for ours."""
    metadata = built.module("leda_pycm-0.1.0.dist-info/METADATA").read_text()
    assert "\nName: leda-pycm\n" in metadata
    assert built.module("pycm/__init__.pyc").is_file()
    assert built["CVE_PRODUCT"] == "leda-pycm:pycm"


def test_the_unit_and_the_configuration_are_the_repositorys(built: Built) -> None:
    for path, package in OTHERS.items():
        assert (built.image / path).read_bytes() == (REPOSITORY / "conf" / Path(path).name).read_bytes(), (
            package
        )
        assert (built.image / path).stat().st_mode & 0o777 == 0o644
    assert built.words("SYSTEMD_SERVICE:pycm") == ["pycm.service"]
    assert built.words("CONFFILES:pycm-conf") == ["/etc/container-management/config.toml"]


def test_kanto_names_are_links_to_files_of_other_packages(built: Built) -> None:
    found = {str(path.relative_to(built.image)) for path in built.image.rglob("*") if path.is_symlink()}
    assert found == set(LINKS)
    for link, target in LINKS.items():
        assert os.readlink(built.image / link) == target
        assert (
            built.package_of(str((built.image / link).with_name(target).relative_to(built.image)))
            != "pycm-kanto"
        )


def test_the_name_of_the_original_is_provided_by_the_package_with_its_names_only(built: Built) -> None:
    assert built.words("RPROVIDES:pycm-kanto") == ["container-management"]
    assert (
        built.words("RCONFLICTS:pycm-kanto")
        == built.words("RREPLACES:pycm-kanto")
        == ["container-management"]
    )
    # a conflict with the name would be one with pycm-kanto; the other one is provided by Kanto's package only
    assert built.words("RCONFLICTS:pycm-conf") == ["kanto/container-management"]
    assert built.words("RCONFLICTS:pycm") == []
    assert {"pycm", "pycm-cli"} <= set(built.words("RDEPENDS:pycm-kanto"))
