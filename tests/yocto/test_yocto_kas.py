# SPDX-License-Identifier: Apache-2.0
"""The kas files: each is complete or says that it is not, is pinned, and is a short file."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from kas_support import BUILT_BY_USERS, FRAGMENTS, OVERLAYS, assigned, local_conf, merged
from layer_support import LAYER, REPOSITORY, as_repository

if TYPE_CHECKING:
    from pathlib import Path

LINES = 40
"""Longest kas file; lock files are lists."""
INSECURE = ("allow-empty-password", "empty-root-password", "allow-root-login", "debug-tweaks")


def kas(tools: Path, work: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools / "kas", *words], cwd=work, env={"PATH": "/usr/bin:/bin", "KAS_WORK_DIR": str(work)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_kas_files_are_the_ones_that_the_tests_know() -> None:
    found = {path.name for path in REPOSITORY.glob("kas*.yml") if not path.name.endswith(".lock.yml")}
    assert found == {*BUILT_BY_USERS, *OVERLAYS}


@pytest.mark.parametrize("name", [*BUILT_BY_USERS, *OVERLAYS, *FRAGMENTS])
def test_kas_file_is_short_and_has_a_comment_for_each_variable(name: str) -> None:
    lines = (REPOSITORY / name).read_text().splitlines()
    assert len(lines) <= LINES
    for before, line in zip(lines, lines[1:], strict=False):  # noqa: RUF007
        if re.match(r"    [\w:-]+ \S*= ", line):
            key_lines = before.strip().startswith(("RAUC_", "PYCM_GIT_URI"))
            assert key_lines or before.strip().startswith("#") or before.endswith("|"), line


@pytest.mark.parametrize("name", BUILT_BY_USERS)
def test_kas_file_alone_has_everything_that_an_image_needs(name: str, tools: Path) -> None:
    config = merged(tools, REPOSITORY / name)
    assert {"pycm", "meta-openembedded", "meta-virtualization"} <= set(config["repos"])
    assert {"poky", "bitbake"} & set(config["repos"])
    assert config["machine"] == ("raspberrypi4-64" if "raspberrypi" in name else "qemuarm64")
    assert config["distro"] == ("nodistro" if name in {"kas-scarthgap.yml", "kas-wrynose.yml"} else "leda")
    assert "require conf/distro/include/pycm.inc" in local_conf(config)
    assert "create-spdx" in local_conf(config)


@pytest.mark.parametrize("name", BUILT_BY_USERS)
def test_kas_file_pins_every_repository_to_a_commit(name: str, tools: Path) -> None:
    config = merged(tools, REPOSITORY / name)
    fetched = {name for name, repo in config["repos"].items() if "url" in repo}
    pins = config["overrides"]["repos"]
    assert set(pins) == fetched
    assert all(re.fullmatch("[0-9a-f]{40}", pin["commit"]) for pin in pins.values())


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_alone_fails(name: str, tools: Path, tmp_path: Path) -> None:
    done = kas(tools, tmp_path, "shell", "-c", "true", REPOSITORY / name)
    assert done.returncode != 0
    assert "Did not find any init-build-env script" in done.stderr or "kas/pycm.yml" in done.stderr


def test_overlay_works_in_a_clone_of_leda_distro(tools: Path, tmp_path: Path) -> None:
    """kas refuses kas files of two repositories on one command line, so the overlay is linked into the other one."""
    distro = tmp_path / "leda-distro"
    (distro / "kas").mkdir(parents=True)
    (distro / "meta-leda/meta-leda-distro").mkdir(parents=True)
    (distro / "kas/leda-qemuarm64.yaml").write_text(
        'header: {version: 12}\nmachine: qemuarm64\ndistro: leda\nlocal_conf_header: {leda: "A = \\"1\\""}\n'
        "repos: {meta-leda: {path: meta-leda, layers: {meta-leda-distro: , meta-leda-backports: }}}\n"
    )
    as_repository(distro)
    own = distro / "pycm"
    shutil.copytree(REPOSITORY / "kas", own / "kas")
    shutil.copy(REPOSITORY / "kas-pycm-overlay.yml", own)
    as_repository(own)
    (distro / "kas-pycm-overlay.yml").symlink_to("pycm/kas-pycm-overlay.yml")
    refused = kas(tools, distro, "dump", "kas/leda-qemuarm64.yaml:pycm/kas-pycm-overlay.yml")
    assert "belong to the same repository" in refused.stderr
    done = kas(tools, distro, "dump", "--format", "yaml", "kas/leda-qemuarm64.yaml:kas-pycm-overlay.yml")
    assert done.returncode == 0, done.stderr
    assert "meta-leda-backports: disabled" in done.stdout
    assert "pycm.inc" in done.stdout


def test_only_the_checkout_is_built_at_its_newest_commit() -> None:
    """AUTOREV stands once in the repository, for the address of this checkout."""
    files = [*REPOSITORY.glob("kas*.yml"), *REPOSITORY.glob("kas/*.yml"), *LAYER.rglob("*")]
    files = [path for path in files if path.is_file() and path.suffix != ".pyc"]  # of the guest's test cases
    setting = re.compile(r"^[^#\n]*=.*AUTOREV", re.MULTILINE)
    named = {path.name for path in files if setting.search(path.read_text())}
    assert named == {"pycm.yml"}
    variables = assigned((REPOSITORY / "kas/pycm.yml").read_text().replace("    ", ""))
    assert variables["SRCREV:pn-pycm"] == "${AUTOREV}"
    assert variables["PYCM_GIT_URI"] == "git://${PYCM_CHECKOUT};protocol=file"


def test_only_the_overlay_for_tests_opens_the_image() -> None:
    files = [
        *REPOSITORY.glob("kas*.yml"),
        *REPOSITORY.glob("kas/*.yml"),
        *LAYER.rglob("*.bb*"),
        *LAYER.rglob("*.inc"),
    ]
    setting = re.compile(rf"^[^#\n]*=[^#\n]*\b({'|'.join(INSECURE)})\b", re.MULTILINE)
    opening = {
        path.name for path in files if setting.search(re.sub(r"\S*:remove\S* .*", "", path.read_text()))
    }
    assert opening == {"kas-testimage.yml"}
    testimage = (REPOSITORY / "kas-testimage.yml").read_text()
    for feature in ("allow-empty-password", "empty-root-password", "allow-root-login", "ssh-server-"):
        assert feature in testimage
    assert "pycm" in assigned(testimage.replace("    ", ""))["TEST_SUITES"].split()


def test_overlay_lets_qemu_go_on_after_the_reset_of_a_power_cycle() -> None:
    """Runqemu starts QEMU with -no-reboot, and puts these options behind it: the last one counts."""
    assert "/proc/sysrq-trigger" in (LAYER / "lib/oeqa/runtime/cases/pycm.py").read_text()
    variables = assigned((REPOSITORY / "kas-testimage.yml").read_text().replace("    ", ""))
    assert variables["TEST_QEMUPARAMS"] == "-action reboot=reset"
