# SPDX-License-Identifier: Apache-2.0
"""hosts, hostname and resolv.conf of containers: writable for them as with Kanto, without a way to the agent's disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from bridge_world import FOREVER, World, bridged
from containerd_server import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_server import ContainerdServer
    from network_world import Machine

pytestmark = pytest.mark.integration

NAMES = ("hosts", "hostname", "resolv.conf")
LIMIT = 4 * 1024 * 1024
FILL = "for f in hosts hostname resolv.conf; do dd if=/dev/zero of=/etc/$f bs=1M count=8; done 2>/dev/null; touch /tmp/full; "
#: Run as the agent's unit would run it: a mount namespace of its own, in which all is read-only but its own directories.
HARDENED = """\
import json, os, sys
from pycm.storage.mounts import mounted_below
from pycm.network.files import NAMES, ContainerFiles
from pycm.model.container import Container
home, run = sys.argv[1:]
files = ContainerFiles(home, run)
files.prepare()
assert os.stat("/proc/1/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino
files.write(Container(id="c1"), {name: name.encode() for name in NAMES})
seen = [mounted_below(home)]
again = ContainerFiles(home, run)
again.prepare()
assert again.others(()) == {"c1"}
again.release("c1")
seen.append(mounted_below(home))
assert os.stat("/proc/self/ns/mnt").st_ino == os.stat("/proc/thread-self/ns/mnt").st_ino
print(json.dumps(seen))
"""


@pytest.fixture
def world(tmp_path: Path, containerd: ContainerdServer, machine: Machine) -> Iterator[World]:
    with bridged(tmp_path, containerd, machine) as world:
        yield world


def inside(world: World, name: str, file: str) -> Path:
    return Path(f"/proc/{world.agent.state(name)['pid']}/root", "etc", file)


def directory(world: World, name: str) -> Path:
    return world.agent.home / "containers" / name


def used(path: Path) -> int:
    """KiB on the disk below *path*, what is mounted there left out."""
    done = subprocess.run(["du", "-skx", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("mode", ["bridge", "host"])
def test_a_container_that_fills_its_network_files_takes_no_room_on_the_disk(world: World, mode: str) -> None:
    world.create("full", FILL + FOREVER, network_mode=mode)
    world.agent.cm("start", "full")
    wait_until(lambda: (inside(world, "full", "../tmp/full")).exists(), 30, "it has filled its files")
    sizes = [os.stat(inside(world, "full", name)).st_blocks * 512 for name in NAMES]
    assert LIMIT // 2 < sum(sizes) <= LIMIT
    world.agent.cm("stop", "-f", "-t", "1s", "full")
    assert world.agent.mounted_files() == []
    assert used(directory(world, "full")) < 100
    kept = {name: (directory(world, "full") / name).read_text() for name in NAMES}
    assert "localhost" in kept["hosts"]
    assert kept["hostname"].strip()
    world.agent.cm("start", "full")
    assert world.agent.state("full")["running"]


def test_a_sparse_file_as_large_as_can_be_takes_no_room_either(world: World) -> None:
    world.create(
        "sparse", "truncate -s 5G /etc/hosts; touch /tmp/full; " + FOREVER, extra_hosts=["a:container_a-host"]
    )
    world.agent.cm("start", "sparse")
    wait_until(lambda: (inside(world, "sparse", "../tmp/full")).exists(), 30, "it has made its file large")
    world.start("a")
    world.agent.cm("stop", "-f", "-t", "1s", "sparse")
    assert (directory(world, "sparse") / "hosts").stat().st_size < 10_000


def test_the_records_name_the_files_as_the_originals_do(world: World) -> None:
    world.start("one")
    found = world.agent.get("one")
    for key, name in (
        ("hosts_path", "hosts"),
        ("hostname_path", "hostname"),
        ("resolv_conf_path", "resolv.conf"),
    ):
        assert found[key] == str(directory(world, "one") / name)
        assert Path(found[key]).read_bytes() == inside(world, "one", name).read_bytes()
        assert os.path.samestat(os.stat(found[key]), os.stat(inside(world, "one", name)))


def test_what_a_container_has_written_stays_when_its_peers_come_and_go(world: World) -> None:
    script = "echo '10.9.8.7 mine' >>/etc/hosts; echo other >/etc/hostname; touch /tmp/done; " + FOREVER
    world.start("consumer", script, extra_hosts=["web:container_web-host"])
    wait_until(lambda: inside(world, "consumer", "../tmp/done").exists(), 30, "it has written")
    before = os.stat(inside(world, "consumer", "hosts")).st_ino
    for kill in (False, True):
        address = world.start(f"web{kill}", host_name="web-host")
        assert world.hosts("consumer")["web"] == address
        assert world.hosts("consumer")["mine"] == "10.9.8.7"
        if kill:
            world.agent.kill()
            world.agent.start()
            assert world.hosts("consumer")["web"] == address
        world.agent.cm("remove", "-f", "-t", "1s", f"web{kill}")
        assert "web" not in world.hosts("consumer")
        assert world.hosts("consumer")["mine"] == "10.9.8.7"
    assert inside(world, "consumer", "hostname").read_text() == "other\n"
    assert os.stat(inside(world, "consumer", "hosts")).st_ino == before


def test_a_container_keeps_its_files_while_the_agent_is_away_and_gives_them_back_at_its_end(
    world: World,
) -> None:
    world.start("stays")
    world.start("ends", "until [ -e /tmp/end ]; do sleep 0.1; done")
    end, stays = inside(world, "ends", "../tmp/end"), inside(world, "stays", "hosts")
    world.agent.kill()
    assert len(world.agent.mounted_files()) == 6
    end.touch()
    world.agent.start()
    wait_until(
        lambda: len(world.agent.mounted_files()) == 3, 20, "the files of the one that ended are unmounted"
    )
    assert stays.read_text().endswith("stays-host.stays-domain stays-host\n")


def test_process_1_sees_the_files_that_an_agent_with_a_hardened_view_mounts(tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run.mkdir()
    view = f"mount --bind {home} {home} && mount --bind {run} {run} && mount -o remount,bind,ro /"
    agent = f'unshare --mount --propagation slave sh -c \'{view} && exec "$@"\' sh "$@"'
    done = subprocess.run(
        # a process 1 of our own, see test_network_namespaces
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--propagation", "shared", "sh", "-c", f"{agent}; exit $?", "sh"),
            *(sys.executable, "-c", HARDENED, str(home), str(run)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    paths = [str(home / "containers" / "c1" / name) for name in ("hostname", "hosts", "resolv.conf")]
    assert json.loads(done.stdout) == [paths, []], "as process 1 sees them"
    assert os.listdir(run / "files") == []


def test_an_agent_that_stops_its_containers_leaves_what_the_original_can_take_over(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    """No live sandbox on record, no mounts, and files where the records say: else Kanto's agent does not make its bridge."""
    agent = AgentProcess(tmp_path, containerd, manager="live_restore = false", inside=machine.inside)
    with agent:
        world = World(agent, machine)
        world.start("one", policy="unless-stopped")
        running = json.loads((directory(world, "one") / "config.json").read_text())
        assert agent.end() == 0
        assert world.left()["files"] == world.left()["namespaces"] == []
        record = json.loads((directory(world, "one") / "config.json").read_text())
        assert "sandbox_id" not in running["network_settings"]
        assert (record["network_settings"], record["manually_stopped"]) == (None, False)
        for key in ("hosts_path", "hostname_path", "resolv_conf_path"):
            assert Path(record[key]).is_file()
        agent.start()
        agent.wait_for("one", running=True)


def test_files_on_the_disk_are_kept_by_a_container_that_runs_and_are_covered_at_its_next_start(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    """As after an upgrade from a version without a tmpfs; here of an agent that may not mount."""
    agent = AgentProcess(tmp_path, containerd, inside=("setpriv", "--bounding-set", "-sys_admin"))
    with agent:
        world = World(agent, machine)
        world.create("old", network_mode="host")
        agent.cm("start", "old")
        assert "cannot mount a tmpfs: Operation not permitted" in agent.text()
        agent.end()
        agent.inside = ()
        agent.start()
        assert agent.state("old")["running"]
        for name in NAMES:
            assert os.path.samestat(
                os.stat(directory(world, "old") / name), os.stat(inside(world, "old", name))
            )
        assert agent.mounted_files() == []
        agent.cm("stop", "-f", "-t", "1s", "old")
        agent.cm("start", "old")
        assert len(agent.mounted_files()) == 3
        for name in NAMES:
            assert os.path.samestat(
                os.stat(directory(world, "old") / name), os.stat(inside(world, "old", name))
            )
