# SPDX-License-Identifier: Apache-2.0
"""The conformance cases of the area lifecycle, each on the whole agent, a real containerd and the real bridge network.

A test is named after its vector and reads from it what is given, what is done and what must come of it; a word of a vector that
is not understood here is a failure.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from images import IMAGE
from network_world import private_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

VECTORS = [
    vector
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "runtime.json").read_text())
    if vector["area"] == "lifecycle"
]
#: What a vector says of the container's process -> the script that does it.
PROCESSES = {
    "exits 143 on TERM": "trap 'exit 143' TERM; while :; do sleep 0.1; done",
    "ignores TERM": "trap '' TERM; while :; do sleep 0.1; done",
    "exits 0": "exit 0",
    "allocates 64M": "dd if=/dev/zero of=/dev/null bs=64M",
}
STATUS = {"Created": 1, "Running": 2, "Stopped": 3, "Paused": 4, "Exited": 5}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, containerd: ContainerdServer) -> Iterator[AgentProcess]:
    with (
        private_network() as machine,
        AgentProcess(tmp_path_factory.mktemp("agent"), containerd, inside=machine.inside) as process,
    ):
        yield process


class Told:
    """The events of one container, from now on."""

    def __init__(self, agent: AgentProcess, container_id: str, file: Path) -> None:
        self._agent, self._id, self._file = agent, container_id, file
        command = agent.command("events", "--format", "json", container_id, program="pycm")
        with open(file, "wb") as output:
            self._process = subprocess.Popen(command, stdout=output)
        self._heard()
        self._before = len(self._lines())

    def _heard(self) -> None:
        """Return when all that happens from now on is told. What a container is called changes nothing else."""
        name = self._agent.get(self._id)["container_name"]
        names = (f"{name}-{number}" for number in itertools.count())

        def listens() -> bool:
            self._agent.cm("rename", self._id, next(names))
            return bool(self._lines())

        wait_until(listens, 30, "events are told")
        self._agent.cm("rename", self._id, name)
        wait_until(lambda: self._lines()[-1]["container_name"] == name, 30, "the last event is told")

    def _lines(self) -> list[dict[str, Any]]:
        """Those that are written to their end."""
        return [json.loads(line) for line in self._file.read_text().split("\n")[:-1]]

    @property
    def actions(self) -> list[str]:
        return [event["action"] for event in self._lines()[self._before :]]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Play:
    """One container as a vector gives it, what is done to it, and what came of it."""

    def __init__(self, agent: AgentProcess, vector: dict[str, Any], directory: Path) -> None:
        self.agent, self.given, self.expect = agent, vector["given"], vector["expect"]
        (existing,) = self.given.get("existing_ids", [vector["name"]])
        self.id = existing
        self.failed = False
        self._create(directory)
        self._reach(self.given.get("status", "Created"))
        self.before = agent.get(self.id)
        self.told = Told(agent, self.id, directory / "events")

    # ── given ──

    def _create(self, directory: Path) -> None:
        given = dict(self.given)
        policy = given.pop("policy", "no")
        description = {
            "container_id": self.id,
            "container_name": given.pop("name", self.id),
            "host_name": given.pop("host_name", ""),
            "image": {"name": IMAGE},
            "host_config": {
                "network_mode": "bridge",
                "restart_policy": policy if isinstance(policy, dict) else {"type": policy},
                "resources": given.pop("resources", None),
            },
            "config": {"cmd": ["/bin/sh", "-c", PROCESSES[given.pop("proc", "exits 143 on TERM")]]},
        }
        unknown = given.keys() - {"status", "manually_stopped", "existing_ids"}
        assert not unknown, f"not understood: {unknown}"
        self.file = directory / "descriptor.json"
        self.file.write_text(json.dumps(description))
        self.agent.cm("create", "--file", self.file)

    def _reach(self, status: str) -> None:
        """A container with this status, reached as a user would."""
        commands = {
            "Created": (),
            "Running": ("start",),
            "Paused": ("start", "pause"),
            "Stopped": ("start", "stop"),
        }
        for command in commands[status]:
            self.agent.cm(command, self.id)
        assert self.agent.state(self.id)["status"] == STATUS[status]
        if "manually_stopped" in self.given:
            assert self.agent.get(self.id)["manually_stopped"] == self.given["manually_stopped"]

    # ── done ──

    def act(self, action: str) -> None:
        for step in re.split(r"; | then ", action):
            if step == "wait 1s":  # as the vector says: for what must not happen there is nothing to wait for
                time.sleep(1)
            elif step == "wait":
                self.agent.wait_for(self.id, running=False)
            else:
                self.failed = self.agent.call(*self._command(step)).returncode != 0

    def _command(self, step: str) -> list[str | Path]:
        verb, _, rest = step.partition(" ")
        if verb == "create":
            assert rest == f"id={self.id}"
            return ["create", "--file", self.file]
        if verb == "rename":
            return ["rename", self.id, rest.strip("'")]
        options = re.findall(r"(\w+):(?:'([^']*)'|(\w+))", rest)
        flags: list[str | Path] = []
        for name, quoted, plain in options:
            value = quoted or plain
            flags += {
                "timeout": ["-t", f"{value}s"],
                "force": ["-f"] if value == "true" else [],
                "signal": ["-s", value],
                "type": ["--rp", value],
            }[name]
        return [verb, *flags, self.id]

    # ── come of it ──

    def found(self, key: str) -> Any:
        """What the agent, its files and containerd say of *key*."""
        if key == "error" and not isinstance(self.expect[key], str):
            return self.failed
        around = {
            "events": self._events,
            "get": lambda: self.agent.get(self.id) if self.id in self.agent.ids() else None,
            "meta_dir_exists": self._files.exists,
            "snapshot_exists": lambda: f"{self.id}-snapshot" in self.agent.containerd.ctr("snapshots", "ls"),
            # not on the wire
            "started_successfully_before": lambda: json.loads((self._files / "config.json").read_text())[key],
        }
        return around[key]() if key in around else self._of_container(key)

    @property
    def _files(self) -> Path:
        return self.agent.home / "containers" / self.id

    def _events(self) -> list[str]:
        wait_until(lambda: len(self.told.actions) >= len(self.expect["events"]), 20, "the events are told")
        return self.told.actions

    def _of_container(self, key: str) -> Any:
        container = self.agent.get(self.id)
        state = container["state"]
        if key == "status":
            return next(word for word, number in STATUS.items() if number == state["status"])
        derived = {
            "existing_unchanged": container == self.before,
            "restarted": container["restart_count"] > 0 or state["running"],
            "name": container["container_name"],
        }
        return {**container, **state, **derived}[key]

    def check(self) -> None:
        for key, wanted in self.expect.items():
            if key == "note":
                continue
            found = self.found(key)
            assert found > 0 if wanted == ">0" else found == wanted, f"{key}: {found!r}, wanted {wanted!r}"


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in VECTORS])
def test_lifecycle(vector: dict[str, Any], agent: AgentProcess, tmp_path: Path) -> None:
    play = Play(agent, vector, tmp_path)
    try:
        play.act(vector["action"])
        play.check()
    finally:
        play.told.close()
        if play.id in agent.ids():
            agent.call("remove", "-f", "-t", "1s", play.id)
