# SPDX-License-Identifier: Apache-2.0
"""Images from a real registry through the agent: pulled when a container is made, used without network afterwards."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from containerd_server import ContainerdServer, private_containerd, wait_until
from hostile_registry import HostileRegistry
from images import Image, base_layer, layer
from pty_process import PtyProcess
from registry_server import RegistryServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_process import AgentProcess

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd(gc_startup="100ms") as server:
        yield server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server


def test_create_pulls_a_missing_image_and_uses_a_local_one_without_network(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    layers = [base_layer(), layer({"note": b"from the registry\n"})]
    reference = registry.push(Image(layers=layers), "some/app", "1.0")
    first = agent.run_container(reference, "cat", "/note")
    agent.wait_for(first, exited=True, exit_code=0)
    assert agent.logged(first) == ["from the registry"]
    registry.stop()
    try:
        second = agent.run_container(reference, "cat", "/note")
        agent.wait_for(second, exited=True, exit_code=0)
        assert agent.logged(second) == ["from the registry"]
    finally:
        registry.start()


def test_create_on_a_terminal_shows_the_pull_and_prints_the_id(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    reference = registry.push(Image(layers=[base_layer(), layer({"note": b"shown\n"})]), "some/shown", "1.0")
    for pulled in (True, False):
        with PtyProcess(agent.command("create", "--network", "host", reference), columns=200) as terminal:
            assert terminal.wait() == 0, terminal.seen
            assert (f"{reference}: " in terminal.seen) is pulled
            assert terminal.seen.rpartition("\x1b[K")[2].strip() in agent.ids()
    absent = f"{registry.host}/some/shown:none"
    with PtyProcess(agent.command("create", "--network", "host", absent), columns=200) as terminal:
        assert terminal.wait() == 1
        assert f'failed to resolve reference "{absent}": {absent}: not found' in terminal.seen


def test_an_image_that_is_not_there_is_one_clear_error_and_leaves_nothing(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    reference = f"{registry.host}/some/app:none"
    done = agent.call("create", "--network", "host", reference)
    assert done.returncode == 1
    text = f'failed to resolve reference "{reference}": {reference}: not found'
    assert text in done.stderr
    assert "manifest unknown" in done.stderr
    assert done.stderr.count("\n") == 1
    assert agent.ids() == []
    assert not list((agent.home / "containers").iterdir())


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_an_image_that_a_power_cut_damaged_is_fetched_again(
    agent: AgentProcess, registry: RegistryServer, containerd: ContainerdServer, part: str, how: str
) -> None:
    layers = [base_layer(), layer({"note": f"{part} {how}\n".encode()})]
    reference = registry.push(Image(layers=layers), f"damaged/{part}-{how}", "1.0")
    # without unpacking, as it would be if the layers had been removed with their last container
    containerd.ctr("content", "fetch", "--plain-http", reference)
    damage(containerd, damaged_digest(containerd, reference, part), how)
    container = agent.run_container(reference, "cat", "/note")
    agent.wait_for(container, exited=True, exit_code=0)
    assert agent.logged(container) == [f"{part} {how}"]


def test_a_damaged_image_without_network_is_one_clear_error(
    agent: AgentProcess, registry: RegistryServer, containerd: ContainerdServer
) -> None:
    reference = registry.push(Image(layers=[layer({"note": b"alone\n"})]), "damaged/alone", "1.0")
    containerd.ctr("content", "fetch", "--plain-http", reference)
    digest = damaged_digest(containerd, reference, "layer")
    damage(containerd, digest, "empty")
    registry.stop()
    try:
        done = agent.call("create", "--network", "host", reference)
    finally:
        registry.start()
    assert done.returncode == 1
    assert f'image "{reference}" is damaged on this machine ({digest} is missing' in done.stderr
    assert "cannot be fetched again: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert agent.ids() == []


def damaged_digest(containerd: ContainerdServer, reference: str, part: str) -> str:
    lines = containerd.ctr("images", "ls", f"name=={reference}").splitlines()
    digest: str = lines[1].split()[2]
    if part == "manifest":
        return digest
    manifest = json.loads(containerd.ctr("content", "get", digest))
    found: str = (manifest["config"] if part == "config" else manifest["layers"][-1])["digest"]
    return found


def damage(containerd: ContainerdServer, digest: str, how: str) -> None:
    path = containerd.directory / "root/io.containerd.content.v1.content/blobs" / digest.replace(":", "/")
    path.chmod(0o644)
    path.write_bytes(b"")
    if how == "missing":
        path.unlink()


def test_creation_that_waits_for_its_image_holds_up_nothing_else(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    reference = registry.push(Image(), "quick/app", "1")
    with HostileRegistry() as silent:
        slow = silent.put(Image(layers=[base_layer(), layer({"slow": b"x"})]), "slow/app", "1")
        silent.answer = lambda request: "/blobs/" in request.path and request.stall()
        waiting = subprocess.Popen(agent.command("create", "--network", "host", slow), stderr=subprocess.PIPE)
        wait_until(lambda: bool(silent.blob_requests()), 30, "the slow pull waits for a blob")
        container_id = agent.run_container(reference, "true")
        agent.wait_for(container_id, exited=True)
        assert agent.ids() == [container_id]
        assert waiting.poll() is None
        assert agent.end() == 0  # an agent that ends does not wait for registries
        waiting.communicate(timeout=120)
        assert waiting.returncode == 1
    agent.start()
    agent.call("remove", container_id)
    assert agent.ids() == []


def test_images_are_pulled_listed_and_removed_by_hand_but_never_one_in_use(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    used = registry.push(Image(), "hand/used", "1")
    unused = registry.push(Image(layers=[base_layer(), layer({"other": b"x"})]), "hand/unused", "1")
    for reference in (used, unused):
        news = [
            json.loads(line) for line in agent.pycm("pull", "--format", "json", reference).stdout.splitlines()
        ]
        assert news[-1]["step"] == "done"
        assert news[-1]["digest"].startswith("sha256:")
    container_id = agent.cm("create", "--network", "host", used)
    listed = {image["reference"]: image for image in images_of(agent)}
    assert listed[used]["container_ids"] == [container_id]
    assert listed[used]["size_bytes"] > 0
    assert listed[unused]["container_ids"] == []
    done = agent.pycm("image", "remove", used)
    assert done.returncode == 5
    error, hint = done.stderr.splitlines()
    assert container_id in error
    assert hint.startswith("hint: ")
    assert agent.pycm("image", "remove", unused).returncode == 0
    assert agent.pycm("image", "remove", unused).returncode == 4
    agent.cm("remove", container_id)
    assert used in agent.pycm("image", "prune").stdout.split()
    assert used not in {image["reference"] for image in images_of(agent)}


def images_of(agent: AgentProcess) -> list[dict[str, Any]]:
    done = agent.pycm("image", "list", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_image_use_counts_by_reference_and_not_by_layers(
    agent: AgentProcess, registry: RegistryServer, containerd: ContainerdServer
) -> None:
    image = Image(layers=[base_layer(), layer({"shared": b"x"})])
    used, same = (registry.push(image, f"same/{name}", "1") for name in ("used", "other"))
    for reference in (used, same):
        assert agent.pycm("pull", reference).returncode == 0
    container_id = agent.cm("create", "--network", "host", "--rp", "no", used, "true")
    listed = {image["reference"]: image["container_ids"] for image in images_of(agent)}
    assert (listed[used], listed[same]) == ([container_id], [])
    assert agent.pycm("image", "remove", used).returncode == 5
    assert agent.pycm("image", "remove", same).returncode == 0
    # A snapshot of somebody else's does not say which of them it was made from.
    assert agent.pycm("pull", same).returncode == 0
    parents = {
        line.split()[0]: line.split()[1] for line in containerd.ctr("snapshots", "ls").splitlines()[1:]
    }
    containerd.ctr("snapshots", "prepare", "stranger", parents[f"{container_id}-snapshot"])
    listed = {image["reference"]: image["container_ids"] for image in images_of(agent)}
    assert (listed[used], listed[same]) == (sorted([container_id, "stranger"]), ["stranger"])
    assert same not in agent.pycm("image", "prune").stdout.split()
    containerd.ctr("snapshots", "remove", "stranger")
    assert same in agent.pycm("image", "prune").stdout.split()
    # What the container needs is still here.
    agent.cm("start", container_id)
    agent.wait_for(container_id, exited=True, exit_code=0)
    agent.cm("remove", container_id)


def test_image_use_follows_the_name_when_a_tag_moves(agent: AgentProcess, registry: RegistryServer) -> None:
    reference = registry.push(Image(layers=[base_layer(), layer({"v": b"1\n"})]), "moved/app", "latest")
    container_id = agent.cm("create", "--network", "host", "--rp", "no", reference, "cat", "/v")
    registry.push(Image(layers=[base_layer(), layer({"v": b"2\n"})]), "moved/app", "latest")
    assert agent.pycm("pull", reference).returncode == 0
    assert {image["reference"]: image["container_ids"] for image in images_of(agent)}[reference] == [
        container_id
    ]
    assert agent.pycm("image", "remove", reference).returncode == 5
    assert reference not in agent.pycm("image", "prune").stdout.split()
    agent.cm("start", container_id)
    agent.wait_for(container_id, exited=True, exit_code=0)
    assert agent.logged(container_id) == ["1"]
    agent.cm("remove", container_id)


def test_a_tag_that_moved_is_followed_by_a_pull_and_by_nothing_else(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    reference = registry.push(Image(layers=[base_layer(), layer({"v": b"1\n"})]), "moving/app", "latest")
    first = agent.run_container(reference, "cat", "/v")
    agent.wait_for(first, exited=True, exit_code=0)
    registry.push(Image(layers=[base_layer(), layer({"v": b"2\n"})]), "moving/app", "latest")
    second = agent.run_container(reference, "cat", "/v")
    agent.wait_for(second, exited=True, exit_code=0)
    assert agent.pycm("pull", reference).returncode == 0
    third = agent.run_container(reference, "cat", "/v")
    agent.wait_for(third, exited=True, exit_code=0)
    assert [agent.logged(name) for name in (first, second, third)] == [["1"], ["1"], ["2"]]


def test_a_container_keeps_the_image_that_it_was_made_from_when_its_tag_moves(
    agent: AgentProcess, registry: RegistryServer
) -> None:
    def version(number: int) -> Image:
        config = {"Cmd": ["cat", f"/v{number}"], "Env": ["PATH=/bin"]}
        return Image(config=config, layers=[base_layer(), layer({f"v{number}": f"{number}\n".encode()})])

    reference = registry.push(version(1), "kept/app", "latest")
    container_id = agent.run_container(reference)
    agent.wait_for(container_id, exited=True, exit_code=0)
    registry.push(version(2), "kept/app", "latest")
    assert agent.pycm("pull", reference).returncode == 0
    assert agent.pycm("image", "prune").returncode == 0  # containerd collects what nobody holds
    agent.cm("start", container_id)
    wait_until(lambda: agent.logged(container_id) == ["1", "1"], 30, "the first version runs again")
    agent.wait_for(container_id, exited=True, exit_code=0)
