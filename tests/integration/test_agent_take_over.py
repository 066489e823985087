# SPDX-License-Identifier: Apache-2.0
"""What the original leaves on a machine where it ran since the last start, and pycm takes its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_server import ContainerdServer

pytestmark = pytest.mark.integration


def mounted(path: Path) -> int:
    return Path("/proc/self/mountinfo").read_text().count(f" {path} ")


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    """Of two containers, one of them twice, the other over a file that is not in it; and a way out of the home."""
    places = [
        tmp_path / place / "rootfs" for place in ("home/overlayfs/c1", "home/overlayfs/c2", "elsewhere")
    ]
    for place in places:
        place.mkdir(parents=True)
    (tmp_path / "home/overlayfs/out").symlink_to(tmp_path / "elsewhere")
    (places[1] / "kept").write_text("under the mount")
    for place in (places[0], *places):
        subprocess.run(["mount", "-t", "tmpfs", "left", str(place)], check=True)
    yield places[0]
    for place in places:
        while mounted(place):
            subprocess.run(["umount", str(place)], check=True)


def test_file_systems_that_the_original_left_mounted_are_unmounted(
    tmp_path: Path, containerd: ContainerdServer, left: Path
) -> None:
    with AgentProcess(tmp_path, containerd) as agent:
        assert not mounted(left)
        assert not left.parent.exists()
        assert f"{left}: unmounted: Kanto left it mounted" in agent.text()
        assert (tmp_path / "home/overlayfs/c2/rootfs/kept").read_text() == "under the mount"
        assert mounted(tmp_path / "elsewhere/rootfs") == 1


@pytest.mark.usefixtures("left")
def test_a_hardened_agent_unmounts_them_for_process_1(tmp_path: Path) -> None:
    work = "import sys; from pycm.storage.mounts import unmount_snapshots; unmount_snapshots(sys.argv[1])"
    agent = 'unshare --mount --propagation slave "$@"; cat /proc/1/mountinfo'
    done = subprocess.run(
        # a process 1 of our own: the machine's may be out of reach; its mounts are shared, as systemd makes them
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--propagation", "shared", "sh", "-c", agent, "sh"),
            *(sys.executable, "-c", work, str(tmp_path / "home")),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )  # fmt: skip
    assert f"{tmp_path}/home" not in done.stdout
    assert done.stdout.count(f"{tmp_path}/elsewhere/rootfs") == 1
