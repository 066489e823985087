# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that are bound to files: made and removed, and seen by process 1 whatever view of the files their maker has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pycm.errors import OperationFailedError
from pycm.network import machine

pytestmark = pytest.mark.integration

#: Run as the agent's unit would run it: a mount namespace of its own, in which all is read-only but one directory.
HARDENED = """\
import json, os, subprocess, sys
from pycm.network import machine
path = sys.argv[1]
def kinds():
    views = {"own": [], "init": ["nsenter", "--mount=/proc/1/ns/mnt"]}
    stat = lambda view: subprocess.run([*view, "stat", "-f", "-c", "%T", path], capture_output=True, text=True)
    return {name: stat(view).stdout.strip() for name, view in views.items()}
assert os.stat("/proc/1/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino
machine.make_namespace(path)
seen = [kinds()]
machine.remove_namespace(path)
seen.append(kinds())
assert os.stat("/proc/self/ns/mnt").st_ino == os.stat("/proc/thread-self/ns/mnt").st_ino
print(json.dumps(seen))
"""


def mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def test_a_namespace_lives_without_a_process_and_has_a_loopback(tmp_path: Path) -> None:
    path = tmp_path / "netns" / "one"
    machine.make_namespace(str(path))
    try:
        assert machine.list_namespaces(str(tmp_path / "netns")) == ["one"]
        links = subprocess.run(
            ["nsenter", f"--net={path}", "ip", "-brief", "link"], capture_output=True, text=True, check=True
        )
        (loopback,) = links.stdout.splitlines()
        assert loopback.startswith("lo ")
        assert "UP" in loopback
        own = Path("/proc/self/ns/net").stat().st_ino
        assert path.stat().st_ino != own
        assert Path("/proc/thread-self/ns/net").stat().st_ino == own
    finally:
        machine.remove_namespace(str(path))
    assert not mounted(path)
    assert machine.list_namespaces(str(tmp_path / "netns")) == []


def test_whatever_is_left_at_the_path_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "one"
    machine.remove_namespace(str(path))
    path.touch()  # made, and nothing bound to it
    machine.remove_namespace(str(path))
    assert not path.exists()
    machine.make_namespace(str(path))
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", path], check=True)  # one upon the other
    machine.remove_namespace(str(path))
    assert not path.exists()
    assert not mounted(path)


def test_a_path_that_is_taken_or_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text("mine")
    with pytest.raises(OperationFailedError, match=r"cannot create .*/one: File exists"):
        machine.make_namespace(str(path))
    assert path.read_text() == "mine"
    with pytest.raises(OperationFailedError, match=r"cannot create .*/one/two: File exists"):
        machine.make_namespace(str(path / "two"))
    path.unlink()
    path.mkdir()
    with pytest.raises(
        OperationFailedError, match=r"cannot remove the network namespace .*/one: Is a directory"
    ):
        machine.remove_namespace(str(path))


def test_process_1_sees_what_an_agent_with_a_hardened_view_makes(tmp_path: Path) -> None:
    """Else containerd, which sees files as process 1 does, would find an empty file in its place."""
    directory = tmp_path / "run"
    directory.mkdir()
    view = f"mount --bind {directory} {directory} && mount -o remount,bind,ro /"
    agent = f'unshare --mount --propagation slave sh -c \'{view} && exec "$@"\' sh "$@"'
    done = subprocess.run(
        # a process 1 of our own: the machine's may be out of reach; its mounts are shared, as systemd makes them
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--propagation", "shared", "sh", "-c", f"{agent}; exit $?", "sh"),
            *(sys.executable, "-c", HARDENED, str(directory / "netns" / "one")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"own": "nsfs", "init": "nsfs"}, {"own": "", "init": ""}]
