# SPDX-License-Identifier: Apache-2.0
"""Room for images: asked for before a pull, made by the removal of unused ones; old unused ones go by themselves; used ones never."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from hostile_registry import HostileRegistry
from images import Image, base_layer, layer
from test_agent_images import images_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

BASE = base_layer()
MB = 1_000_000


@pytest.fixture
def small(request: pytest.FixtureRequest) -> Iterator[ContainerdServer]:
    """containerd on a file system of 128 MiB, of which the agent keeps 64 free; or as mount options (the parameter) say."""
    server = ContainerdServer(Path(tempfile.mkdtemp(prefix="pycm-ctrd-")))
    root = server.directory / "root"
    root.mkdir()
    options = getattr(request, "param", "size=128m")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "pycm-test", root], check=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def registry() -> Iterator[HostileRegistry]:
    with HostileRegistry() as server:
        yield server


def big(size: int) -> Image:
    return Image(layers=[BASE, layer({"noise": os.urandom(size)})])


def names(agent: AgentProcess) -> set[str]:
    return {image["reference"] for image in images_of(agent)}


def test_a_pull_makes_room_by_unused_images_and_says_how_much_is_missing(
    tmp_path: Path, small: ContainerdServer, registry: HostileRegistry
) -> None:
    first = registry.put(big(16 * MB), "big/first", "1")
    second = registry.put(big(18 * MB), "big/second", "1")
    third = registry.put(big(17 * MB), "big/third", "1")
    enormous = registry.put(big(100 * MB), "big/enormous", "1")
    with AgentProcess(tmp_path, small) as agent:
        assert agent.pycm("pull", first).returncode == 0
        before = len(registry.blob_requests())
        done = agent.pycm("pull", enormous)
        assert done.returncode == 1
        assert re.search(r"no space for image .* needs [0-9.]+ MB .* [0-9.]+ MB are missing", done.stderr)
        assert len(registry.blob_requests()) <= before + 1  # its configuration; no byte of a layer
        assert names(agent) == {first}  # its removal would not have been enough
        used = agent.cm("create", "--network", "host", second)  # the first one has to go for it
        assert names(agent) == {second}
        done = agent.pycm("pull", third)
        assert done.returncode == 1
        assert "are missing" in done.stderr
        assert names(agent) == {second}  # in use
        agent.cm("start", used)
        agent.cm("remove", "-f", used)
        assert agent.pycm("pull", third).returncode == 0
        assert names(agent) == {third}


def test_a_layer_that_swells_is_given_up_and_leaves_nothing(
    tmp_path: Path, small: ContainerdServer, registry: HostileRegistry
) -> None:
    bomb = registry.put(
        Image(layers=[BASE, layer({"zeros": bytes(200 * MB)})], compression="+gzip"), "bomb/app", "1"
    )
    with AgentProcess(tmp_path, small) as agent:
        done = agent.pycm("pull", bomb)
        assert done.returncode == 1
        # by the watch over the free space or, where the disk is faster than that, by the disk itself
        assert "no space for image" in done.stderr
        assert done.stderr.count("\n") == 1
        assert names(agent) == set()
        wait_until(
            lambda: "extract-" not in small.ctr("snapshots", "ls"), 30, "the half-unpacked layer is gone"
        )
        good = registry.put(big(5 * MB), "good/app", "1")
        assert agent.pycm("pull", good).returncode == 0


@pytest.mark.parametrize("small", ["size=512m,nr_inodes=40000"], indirect=True)
def test_a_layer_of_too_many_files_is_given_up_and_costs_no_other_image(
    tmp_path: Path, small: ContainerdServer, registry: HostileRegistry
) -> None:
    files = layer({f"{number}": b"" for number in range(50_000)})
    bomb = registry.put(Image(layers=[BASE, files], compression="+gzip"), "bomb/files", "1")
    unused = {registry.put(big(100), f"unused/app{number}", "1") for number in range(3)}
    with AgentProcess(tmp_path, small) as agent:
        for reference in unused:
            assert agent.pycm("pull", reference).returncode == 0
        done = agent.pycm("pull", bomb)
        assert done.returncode == 1
        # by the watch over the free files or, where the disk is faster than that, by the disk itself
        assert "no space for image" in done.stderr
        assert done.stderr.count("\n") == 1
        assert names(agent) == unused


def test_old_unused_images_go_and_used_ones_when_their_last_container_does(
    tmp_path: Path, registry: HostileRegistry
) -> None:
    used = registry.put(big(1000), "old/used", "1")
    unused = registry.put(big(1000), "old/unused", "1")
    with private_containerd() as containerd:
        with AgentProcess(tmp_path, containerd, containers='image_expiry = "3s"') as agent:
            first, second = (agent.cm("create", "--network", "host", used) for _ in range(2))
            assert agent.pycm("pull", unused).returncode == 0
            wait_until(lambda: names(agent) == {used}, 30, "the unused image goes")
            agent.cm("remove", first)
            container_id = agent.run_container(used, "true")  # still here, old as it is
            agent.wait_for(container_id, exited=True, exit_code=0)
            agent.cm("remove", container_id)
            assert names(agent) == {used}
            agent.cm("remove", second)
            wait_until(lambda: names(agent) == set(), 30, "the image goes with its last container")
        wait_until(lambda: containerd.ctr("content", "ls", "-q") == "", 30, "its content is collected")


def test_expiry_counts_the_time_in_use_over_restarts_and_not_the_clocks(
    tmp_path: Path, registry: HostileRegistry
) -> None:
    reference = registry.put(big(1000), "old/kept", "1")
    setting = 'image_expiry = "1h"'
    with private_containerd() as containerd, AgentProcess(tmp_path, containerd, containers=setting) as agent:
        file = agent.home / "pycm" / "images.json"
        assert agent.pycm("pull", reference).returncode == 0
        wait_until(lambda: reference in counted(file)["seen"], 30, "the image is seen")
        assert agent.end() == 0
        before = counted(file)
        agent.start()
        assert agent.end() == 0
        after = counted(file)
        assert after["seen"] == before["seen"]
        # The time between the two agents counts: the machine was in use.
        assert after["used"] - before["used"] == pytest.approx(after["running"] - before["running"], abs=0.1)
        # An hour of use more, without the clock: the image is not an hour old by it.
        file.write_text(json.dumps({**after, "used": after["used"] + 3600}))
        agent.start()
        another = registry.put(big(1000), "new/app", "1")
        assert agent.pycm("pull", another).returncode == 0
        wait_until(lambda: another in counted(file)["seen"], 30, "the agent has looked for old images")
        assert counted(file)["used"] > after["used"] + 3600
        assert names(agent) == {reference, another}


def counted(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {"seen": {}, "used": 0.0}
    return found
