# SPDX-License-Identifier: Apache-2.0
"""Installing from Debian while another program holds one of apt's locks: a real apt with directories of its own."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HELPERS = Path(__file__).resolve().parents[3] / "scripts/lib/debian.sh"


@pytest.fixture
def apt(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `apt_get` of debian.sh with words; apt's state, lists and cache lie in *tmp_path*."""
    for name in ("lists/partial", "cache/archives/partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    (tmp_path / "apt.conf").write_text(
        f'Dir::State "{tmp_path}";\nDir::State::status "{tmp_path}/status";\nDir::Cache "{tmp_path}/cache";\n'
        'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "/dev/null";\n'
    )

    def start(setting: str, *words: str) -> subprocess.Popen[str]:
        script = (
            f'source {HELPERS}\n{setting}\nexport APT_CONFIG={tmp_path}/apt.conf\napt_get {tmp_path}/log "$@"'
        )
        return subprocess.Popen(["bash", "-euc", script, "apt", *words], stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(("lock", "words"), [("lists/lock", ["update"]), ("cache/archives/lock", ["clean"])])
def test_apt_get_waits_for_the_holder_of_a_lock(
    apt: Callable[..., subprocess.Popen[str]], tmp_path: Path, lock: str, words: list[str]
) -> None:
    with (tmp_path / lock).open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        process = apt("", *words)
        assert process.stderr
        said = process.stderr.readline()
        assert said.startswith(
            f"waiting for apt, 300 s at most: Could not get lock {tmp_path}/{lock}. It is held by"
        )
        assert process.poll() is None
    assert process.communicate(timeout=60) == (None, "")
    assert process.returncode == 0


def test_apt_get_ends_when_a_lock_is_held_too_long(
    apt: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with (tmp_path / "lists/lock").open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        process = apt("apt_wait=1", "update")
        assert process.communicate(timeout=60)[1].count("waiting for apt, 1 s at most") == 1
    assert process.returncode == 1
    assert "Could not get lock" in (tmp_path / "log").read_text()


def test_apt_get_does_not_wait_after_another_error(
    apt: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = apt("", "install", "no-such-package")
    assert process.communicate(timeout=60) == (None, "")
    assert process.returncode == 1
    assert "Unable to locate package no-such-package" in (tmp_path / "log").read_text()


APT_GET = """
apt_get() {
    [ "$2" = install ] || return 0
    echo installing >&2
    until [ -e "$place/may-end" ]; do sleep 0.1; done
    test -x "$policy"
}
"""


def test_apt_install_keeps_services_forbidden_while_another_one_ends(tmp_path: Path) -> None:
    places = (
        f"place={tmp_path} policy={tmp_path}/policy policy_saved={tmp_path}/saved apt_turn={tmp_path}/turn"
    )

    def start() -> subprocess.Popen[str]:
        script = f"source {HELPERS}\n{places}\n{APT_GET}\napt_install package"
        return subprocess.Popen(["bash", "-euc", script], stderr=subprocess.PIPE, text=True)

    first = start()
    assert first.stderr
    assert first.stderr.readline() == "installing\n"
    second = start()
    assert second.stderr
    assert second.stderr.readline().startswith("waiting for another script of pycm that installs packages")
    (tmp_path / "may-end").touch()
    assert first.communicate(timeout=60) == (None, "")
    assert second.communicate(timeout=60) == (None, "installing\n")
    assert (first.returncode, second.returncode) == (0, 0)
    assert not (tmp_path / "policy").exists()
