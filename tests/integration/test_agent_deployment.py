# SPDX-License-Identifier: Apache-2.0
"""Containers from descriptors in a directory, on a real agent, containerd and registry."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import wait_until
from images import IMAGE, Image
from registry_server import RegistryServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containerd_server import ContainerdServer

pytestmark = pytest.mark.integration

FOREVER = ["/bin/sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.1; done"]
#: With what Leda's manifests carry: empty lists, a state of another form, hosts of other containers, limits that are null.
TRAITS: dict[str, Any] = {
    "hooks": [],
    "host_config": {
        "devices": [],
        "network_mode": "host",
        "privileged": False,
        "restart_policy": {"maximum_retry_count": 0, "retry_timeout": 5, "type": "unless-stopped"},
        "runtime": "io.containerd.runc.v2",
        "extra_hosts": ["databroker:container_databroker-host"],
        "extra_capabilities": None,
        "log_config": {
            "driver_config": {"type": "json-file", "max_files": 2, "max_size": "1M", "root_dir": ""}
        },
        "resources": None,
    },
    "network_settings": None,
    "state": {"pid": -1, "status": "Stopped", "exited": False},
}


class Device:
    """An agent and its directory of descriptors."""

    def __init__(self, root: Path, containerd: ContainerdServer, mode: str = "update") -> None:
        self.directory = root / "manifests"
        self.directory.mkdir()
        lines = f'enable = true\nmode = "{mode}"\nctr_dir = "{self.directory}"'
        self.agent = AgentProcess(root, containerd, deployment=lines)

    def close(self) -> None:
        self.agent.__exit__()

    def write(self, name: str, /, image: str = IMAGE, cmd: list[str] = FOREVER, **keys: Any) -> Path:
        path = self.directory / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        config = {"env": ["log_level=info"], "cmd": cmd}
        path.write_text(json.dumps({**TRAITS, "image": {"name": image}, "config": config, **keys}))
        return path

    def named(self, name: str) -> dict[str, Any] | None:
        done = self.agent.call("get", "-n", name)
        found: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return found

    def runs(self, name: str, image: str = IMAGE) -> bool:
        found = self.named(name)
        return bool(found and found["state"]["running"] and found["image"]["name"] == image)

    def wait(self, name: str, image: str = IMAGE) -> dict[str, Any]:
        wait_until(lambda: self.runs(name, image), 60, f"{name} runs; the log is\n{self.agent.text()}")
        found = self.named(name)
        assert found is not None
        return found

    def finished(self, count: int = 1) -> None:
        """Wait until the deployment has ended for the *count*th time since the log was begun."""
        line = "deployment: finished"
        wait_until(
            lambda: self.agent.text().count(line) >= count, 60, f"{count} times {line}\n{self.agent.text()}"
        )

    def only_one(self, name: str) -> None:
        """No second container, task or snapshot is left."""
        (container_id,) = self.agent.ids()
        containerd = self.agent.containerd
        assert containerd.ctr("tasks", "ls", "-q").split() == [container_id]
        snapshots = [line.split()[0] for line in containerd.ctr("snapshots", "ls").splitlines()[1:]]
        assert [key for key in snapshots if key.endswith("-snapshot")] == [f"{container_id}-snapshot"]
        assert self.runs(name, self.agent.get(container_id)["image"]["name"])


@pytest.fixture
def device(tmp_path: Path, containerd: ContainerdServer) -> Iterator[Device]:
    made = Device(tmp_path, containerd)
    with contextlib.closing(made):
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path) as server:
        yield server


def test_dep_update_new(device: Device) -> None:
    device.write("b/x")
    device.write("a")
    (device.directory / "c.json.disabled").write_text("{}")
    device.agent.start()
    device.finished()
    assert [device.agent.get(found)["container_name"] for found in device.agent.ids()] == ["a", "x"]
    for name in ("a", "x"):
        assert device.runs(name)
    order = [line for line in device.agent.text().splitlines() if ": created from" in line]
    assert [line.partition("container ")[2].split(":")[0] for line in order] == ["a", "x"]


def test_dep_bad_file(device: Device) -> None:
    """Of every kind, and none of them ends the agent, keeps it waiting, or another descriptor from its turn."""
    (device.directory / "bad.json").write_text("not json")
    (device.directory / "deep.json").write_text("[" * 100_000)
    (device.directory / "empty.json").touch()
    (device.directory / "bytes.json").write_bytes(b'{"image": {"name": "\xff"}}')
    (device.directory / "dangling.json").symlink_to(device.directory / "none")
    (device.directory / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(device.directory / "fifo.json")
    device.write("wrong", container_id=5)
    device.write("good")
    device.agent.start()
    device.finished()
    assert device.runs("good")
    assert len(device.agent.ids()) == 1
    text = device.agent.text()
    for name in ("bad", "deep", "empty", "bytes", "dangling", "zero", "fifo", "wrong"):
        assert text.count(f"descriptor '{device.directory}/{name}.json': ") == 1
    assert "container_id: 5 is not a string (skipped)" in text


def test_deployment_where_the_directory_is_a_file_starts_the_agent(device: Device) -> None:
    device.directory.rmdir()
    device.directory.write_text("{}")
    device.agent.start()
    wait_until(lambda: "not a directory (nothing is deployed)" in device.agent.text(), 60, "it is named")
    assert device.agent.ids() == []


@pytest.mark.parametrize("keys", [{}, {"container_id": "seat"}])
def test_dep_recreate_fails_rollback(device: Device, keys: dict[str, str]) -> None:
    device.write("seat", **keys)
    device.agent.start()
    old = device.wait("seat")
    device.agent.end()
    device.write("seat", cmd=["/no/such/program"], **keys)
    device.agent.start()
    device.finished(2)
    new = device.wait("seat")
    assert (new["container_id"], new["config"]["cmd"]) == (old["container_id"], FOREVER)
    device.only_one("seat")
    assert (
        "container seat: rolled back: the new one did not start (the earlier one runs)" in device.agent.text()
    )


def test_deployment_replaces_a_container_with_a_fixed_id_and_updates_in_place(device: Device) -> None:
    device.write("seat", container_id="seat")
    device.agent.start()
    first = device.wait("seat")
    device.agent.end()
    host = {**TRAITS["host_config"], "resources": {"memory": "100M"}}
    device.write("seat", container_id="seat", host_config=host)
    device.agent.start()
    device.finished(2)
    second = device.wait("seat")
    assert second["state"]["pid"] == first["state"]["pid"]
    assert second["host_config"]["resources"] == {"memory": "100M", "memory_swap": "200M"}
    device.agent.end()
    device.write("seat", cmd=[*FOREVER, "new"], container_id="seat", host_config=host)
    device.agent.start()
    device.finished(3)
    third = device.wait("seat")
    assert third["state"]["pid"] != first["state"]["pid"]
    assert third["config"]["cmd"][-1] == "new"
    assert (third["container_id"], third["host_config"]["resources"]) == (
        "seat",
        second["host_config"]["resources"],
    )
    device.only_one("seat")


def test_deployment_takes_over_what_was_created_from_the_same_descriptor(device: Device) -> None:
    """By the command line, as kanto-auto-deployer does by the same API: nothing is made, replaced or restarted."""
    path = device.write("seat", id="seat", name="seat")
    aside = path.rename(device.directory / "seat.json.disabled")
    device.agent.start()
    device.agent.cm("start", device.agent.cm("create", "--file", aside))
    before = device.wait("seat")
    device.agent.kill()
    aside.rename(path)
    device.agent.start()
    device.finished(1)
    after = device.wait("seat")
    assert (after["state"]["pid"], after["created"]) == (before["state"]["pid"], before["created"])
    device.only_one("seat")


def test_deployment_without_network_runs_what_is_here_and_pulls_the_rest_when_it_can(
    device: Device, registry: RegistryServer
) -> None:
    reference = registry.push(Image(), "some/app", "1.0")
    registry.stop()
    device.write("a", reference)
    device.write("b")
    device.agent.start()
    device.wait("b")
    wait_until(lambda: "(retrying)" in device.agent.text(), 120, "the image is waited for")
    assert device.named("a") is None
    registry.start()
    device.wait("a", reference)
    device.finished()


def test_agent_ends_at_once_while_a_descriptor_waits_for_its_image(
    device: Device, registry: RegistryServer
) -> None:
    registry.stop()
    device.write("a", f"{registry.host}/some/app:1.0")
    device.agent.start()
    wait_until(lambda: "(retrying)" in device.agent.text(), 120, "the image is waited for")
    assert device.agent.end() == 0
    assert "continuing without it" not in device.agent.text()


def cut(device: Device, point: str) -> None:
    """Start the agent, which dies at *point*, soon after its API answers or before, and then another one."""
    with contextlib.suppress(AssertionError):
        device.agent.start(PYCM_FAIL_POINT=point)
    assert device.agent.process
    assert device.agent.process.wait(60) == -signal.SIGKILL, "the fail point was not reached"
    device.agent.start()
    device.finished()


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        ("update", "containers.create-prepared"),
        ("update", "deployment.created"),
        ("init", "deployment.begun"),
        ("init", "deployment.created:2"),
    ],
)
def test_deployment_that_was_cut_short_is_completed(
    tmp_path: Path, containerd: ContainerdServer, mode: str, point: str
) -> None:
    device = Device(tmp_path, containerd, mode)
    with contextlib.closing(device):
        device.write("a")
        device.write("b", container_id="b")
        cut(device, point)
        for name in ("a", "b"):
            device.wait(name)
        ids = sorted(device.agent.ids())
        assert len(ids) == 2
        assert sorted(containerd.ctr("tasks", "ls", "-q").split()) == ids


@pytest.mark.parametrize(
    ("point", "keys"),
    [
        ("containers.remove-runtime", {}),
        ("deployment.removed", {"container_id": "seat"}),
        ("deployment.created", {}),
    ],
)
def test_replacement_that_was_cut_short_is_completed(
    device: Device, point: str, keys: dict[str, str]
) -> None:
    device.write("seat", **keys)
    device.agent.start()
    device.wait("seat")
    device.agent.end()
    device.agent.log.unlink()
    device.write("seat", cmd=[*FOREVER, "new"], **keys)
    cut(device, point)
    assert device.wait("seat")["config"]["cmd"][-1] == "new"
    device.only_one("seat")


def test_init_deploys_once_and_never_again(tmp_path: Path, containerd: ContainerdServer) -> None:
    device = Device(tmp_path, containerd, "init")
    with contextlib.closing(device):
        device.write("a")
        device.agent.start()
        device.finished()
        device.wait("a")
        assert (device.agent.home / "deployment").is_dir()
        device.agent.cm("remove", "-f", "-t", "1s", device.agent.ids()[0])
        device.agent.end()
        device.agent.start()
        wait_until(lambda: "deployment: skipped" in device.agent.text(), 60, "it is skipped")
        assert device.agent.ids() == []
