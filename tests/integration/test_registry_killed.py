# SPDX-License-Identifier: Apache-2.0
"""A pull that is killed between any two of its steps, or whose agent is: no part of it counts as an image, and the next one ends it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from hostile_registry import HostileRegistry
from images import Image, base_layer, layer, write_archive
from registry_server import RegistryServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

COMMAND = ("cat", "/note")


@pytest.fixture(scope="module")
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd(gc_startup="100ms") as server:
        yield server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server


def image(text: str) -> Image:
    """With a layer that no other image has, and more than one piece of it."""
    files = {"note": f"{text}\n".encode(), "data": os.urandom(3 << 20)}
    return Image(f"registry.test/{text}:1", layers=[base_layer(), layer(files)])


def assert_works(agent: AgentProcess, containerd: ContainerdServer, reference: str, text: str) -> None:
    container_id = agent.run_container(reference, *COMMAND)
    agent.wait_for(container_id, exited=True, exit_code=0)
    assert agent.logged(container_id) == [text]
    agent.cm("remove", container_id)
    leases = containerd.ctr("leases", "ls").splitlines()[1:]
    lasting = {line.split()[0] for line in leases if "containerd.io/gc.expire=" not in line}
    assert lasting <= {"kanto-cm.lease", "kanto-cm.lease.preloaded"}, (
        "what keeps the content of a pull ends by itself"
    )


@pytest.mark.parametrize(
    "point",
    [
        "registry.resolved",
        "registry.piece-written",
        "registry.piece-written:3",
        "registry.layer-fetched",
        "registry.layer-fetched:2",
        "registry.fetched",
        "registry.unpacked",
        "registry.named",
    ],
)
def test_a_pull_that_is_killed_is_no_image_and_the_next_one_completes_it(
    agent: AgentProcess, containerd: ContainerdServer, registry: RegistryServer, point: str
) -> None:
    text = point.replace(":", "-")
    reference = registry.push(image(text), text, "1.0")
    assert agent.end() == 0
    agent.start(PYCM_FAIL_POINT=point)
    done = agent.call("create", "--network", "host", reference)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pull worker was killed" in done.stderr
    assert agent.ids() == []
    named = reference in containerd.ctr("images", "ls", "-q").split()
    assert named == (point == "registry.named"), "it has a name only when all of it is there"
    agent.kill()
    agent.start()
    assert_works(agent, containerd, reference, text)


def test_a_preload_that_is_killed_holds_up_no_creation_and_is_done_by_the_next_agent(
    tmp_path: Path, containerd: ContainerdServer, registry: RegistryServer
) -> None:
    elsewhere = registry.push(image("elsewhere"), "elsewhere", "1.0")
    directory = tmp_path / "preload"
    directory.mkdir()
    with AgentProcess(tmp_path, containerd, containers=f'preload_dir = "{directory}"') as agent:
        agent.end()
        write_archive(directory / "app.tar", image("preloaded"))
        agent.start(PYCM_FAIL_POINT="registry.preload-fetched")
        wait_until(lambda: "pull worker was killed" in agent.text(), 30, "the fail point is reached")
        assert "registry.test/preloaded:1" not in containerd.ctr("images", "ls", "-q").split()
        assert agent.cm("create", "--network", "host", elsewhere) in agent.ids()
        agent.kill()
        agent.start()
        assert_works(agent, containerd, "registry.test/preloaded:1", "preloaded")


def test_a_pull_ends_with_its_killed_agent_and_the_next_agent_knows_nothing_of_the_container(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    with HostileRegistry() as stalling:
        reference = stalling.put(image("stalled"), "stalled", "1")
        stalling.answer = lambda request: "/blobs/" in request.path and request.stall()
        waiting = subprocess.Popen(
            agent.command("create", "--network", "host", reference), stderr=subprocess.PIPE
        )
        wait_until(lambda: bool(stalling.blob_requests()), 30, "the pull waits for a blob")
        (worker,) = workers(agent)
        agent.kill()
        waiting.communicate(timeout=120)
        assert waiting.returncode == 1
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), 30, "the worker ends")
        stalling.answer = lambda _: False
        agent.start()
        wait_until(lambda: not list((agent.home / "containers").iterdir()), 30, "the creation is undone")
        assert agent.ids() == []
        assert_works(agent, containerd, reference, "stalled")


def workers(agent: AgentProcess) -> list[str]:
    assert agent.process
    tasks = Path(f"/proc/{agent.process.pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in children if b"pycm.registry" in Path(f"/proc/{pid}/cmdline").read_bytes()]
