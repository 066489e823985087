# SPDX-License-Identifier: Apache-2.0
"""containerd of another Debian release: used from the cache, fetched from the machine's own mirror, never half there."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

DEBIAN = "http://mirror.test/debian/"
SECURITY = "http://mirror.test/debian-security/"


@pytest.fixture
def script(scripts_lib: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return importlib.import_module("debian_containerd")


class Commands:
    """Answers commands, and writes what they would have written."""

    def __init__(self, script: Any, monkeypatch: pytest.MonkeyPatch, *, runs: bool = True) -> None:
        self.script, self.runs = script, runs
        self.apt: list[str] = []
        monkeypatch.setattr(script, "run", self.run)

    def run(self, command: list[str], cwd: Path | None = None) -> str:
        if command[:2] == ["apt-get", "indextargets"]:
            return f"{SECURITY}\n{DEBIAN}\n"
        if command[0] == "apt-get":
            assert cwd
            assert f"URIs: {DEBIAN}\n" in (cwd / "debian.sources").read_text()
            self.apt.append(command[-1])
            if "download" in command:
                (cwd / "containerd_9.1+ds1-2_amd64.deb").touch()
        elif command[0] == "dpkg-deb":
            programs = Path(command[-1], "usr/bin")
            programs.mkdir(parents=True)
            for name in (*self.script.PROGRAMS, "containerd-stress"):
                (programs / name).touch()
        elif not self.runs:
            raise self.script.SetupError("version GLIBC_9 not found")
        return ""


def test_debian_containerd_is_fetched_once(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(script, monkeypatch)
    target = script.containerd("testing")
    assert target == tmp_path / "pycm/containerd/testing-9.1+ds1-2"
    assert sorted(path.name for path in target.iterdir()) == sorted(script.PROGRAMS)
    assert commands.apt == ["update", "containerd"]
    assert script.containerd("testing") == target
    assert commands.apt == ["update", "containerd"]
    assert list(target.parent.iterdir()) == [target], "nothing else stays"


def test_debian_containerd_that_does_not_run_here_is_not_kept(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Commands(script, monkeypatch, runs=False)
    with pytest.raises(script.SetupError, match="GLIBC_9"):
        script.containerd("testing")
    assert list((tmp_path / "pycm/containerd").iterdir()) == []


def test_debian_containerd_names_the_sources_when_there_is_no_debian_mirror(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "run", lambda _: f"{SECURITY}\n")
    with pytest.raises(script.SetupError, match=r"no Debian mirror among apt's sources: http.*security/"):
        script.mirror()


def test_debian_containerd_shows_what_a_failed_command_said(script: Any) -> None:
    with pytest.raises(script.SetupError, match=r"sh -c .*: out of order"):
        script.run(["sh", "-c", "echo out of order >&2; exit 3"])
    with pytest.raises(script.SetupError, match="cannot run /no/such: No such file"):
        script.run(["/no/such"])
