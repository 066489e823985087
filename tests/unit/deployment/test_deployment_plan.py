# SPDX-License-Identifier: Apache-2.0
"""Which container a descriptor is about, and what has to happen to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pycm.deployment.service import Step, decide, find
from pycm.model.container import Container, State
from pycm.model.defaults import fill_defaults, fill_swap
from pycm.model.frozen import replace
from pycm.model.records import decode
from pycm.model.states import Status

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/runtime.json").read_text())
COMPARE = [vector for vector in VECTORS if vector["area"] == "compare"]
FULL: dict[str, Any] = {
    "container_id": "c1",
    "container_name": "seat",
    "image": {"name": "registry.test/demo/app:1.0"},
    "mount_points": [{"source": "/a", "destination": "/a"}, {"source": "/b", "destination": "/b"}],
    "config": {"env": ["A=1", "B=2"], "cmd": ["x", "y"]},
    "host_config": {
        "devices": [{"path_on_host": "/dev/a"}, {"path_on_host": "/dev/b"}],
        "extra_hosts": ["a:host_ip", "b:host_ip"],
        "extra_capabilities": ["CAP_A", "CAP_B"],
        "port_mappings": [{"container_port": 1, "host_port": 1}, {"container_port": 2, "host_port": 2}],
        "ulimits": [{"name": "nofile", "soft": 1, "hard": 1}],
        "resources": {"memory": "200M"},
        "restart_policy": {"type": "unless-stopped"},
    },
}
#: Path of a key to another value of it, for each that counts.
OTHER: dict[str, Any] = {
    "image.name": "registry.test/demo/app:2.0",
    "mount_points": [{"source": "/a", "destination": "/a", "read_only": True}],
    "config": None,
    "config.cmd": ["y", "x"],
    "config.env": ["A=1", "B=3"],
    "config.user": "1000",
    "config.working_dir": "/tmp",
    "config.health_check": {"tcp": 80},
    "io_config": {"tty": True},
    "io_config.open_stdin": True,
    "host_config.privileged": True,
    "host_config.network_mode": "host",
    "host_config.devices": [],
    "host_config.extra_hosts": ["a:host_ip"],
    "host_config.extra_capabilities": None,
    "host_config.port_mappings": [{"container_port": 1, "host_port": 1}],
    "host_config.log_config": {"driver_config": {"max_size": "1M"}},
    "host_config.ulimits": [],
    "host_config.seccomp_profile": "unconfined",
}
SAME: dict[str, Any] = {
    "container_id": "other",
    "host_name": "other",
    "domain_name": "other",
    "hooks": [{"path": "/bin/true"}],
    "host_config.runtime": "io.containerd.kata.v2",
    "image.decrypt_config": {"keys": ["x"]},
    "io_config": {"attach_stdin": True, "stdin_once": True},
    "mount_points": FULL["mount_points"][::-1],
    "config.env": ["B=2", "A=1"],
    "host_config.devices": FULL["host_config"]["devices"][::-1],
    "host_config.extra_hosts": ["b:host_ip", "a:host_ip"],
    "host_config.port_mappings": FULL["host_config"]["port_mappings"][::-1],
    "host_config.resources": {"memory": "200M", "memory_swap": "400M"},
}
#: The names that the vectors give to keys.
VECTOR_KEYS = {
    "restart_policy.type": "host_config.restart_policy",
    "port_mappings": "host_config.port_mappings",
}
POLICY = {"host_config.restart_policy": {"type": "always"}}


def with_(changes: dict[str, Any]) -> Container:
    data = json.loads(json.dumps(FULL))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = data
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return fill_defaults(decode(Container, data))


def stored(changes: dict[str, Any] | None = None) -> Container:
    return fill_swap(with_(changes or {}))


@pytest.mark.parametrize("vector", COMPARE, ids=lambda vector: vector["name"])
def test_plan_decides_as_the_original(vector: dict[str, Any]) -> None:
    given = vector["given"]
    if "current" in given:
        assert decide(with_({}), given["current"]).value == vector["expect"]["action"]
        return
    differing = given["diff"] if isinstance(given["diff"], list) else [given["diff"]]
    keys = [VECTOR_KEYS.get(key, key) for key in differing]
    changes = {key: {**SAME, **OTHER, **POLICY}[key] for key in keys}
    assert decide(with_(changes), stored()).value == vector["expect"]["action"]


@pytest.mark.parametrize("key", OTHER)
def test_plan_recreates_for_what_only_a_new_container_can_change(key: str) -> None:
    assert decide(with_({key: OTHER[key]}), stored()) is Step.RECREATE
    assert decide(with_({key: OTHER[key]}), stored({key: OTHER[key]})) is Step.CHECK


@pytest.mark.parametrize("key", SAME)
def test_plan_ignores_what_is_no_difference(key: str) -> None:
    assert decide(with_({key: SAME[key]}), stored()) is Step.CHECK
    assert decide(with_({}), stored({key: SAME[key]})) is Step.CHECK


@pytest.mark.parametrize(
    "changes",
    [
        POLICY,
        {"host_config.resources": None},
        {"host_config.resources": {"memory": "100M"}},
        {"host_config.resources": {"memory": "200M", "memory_swap": "-1"}},
        {"host_config.resources": {"memory": "200M", "cpus": "1"}},
    ],
)
def test_plan_updates_limits_and_restart_policy_in_place(changes: dict[str, Any]) -> None:
    assert decide(with_(changes), stored()) is Step.UPDATE
    assert decide(with_(changes), stored(changes)) is Step.CHECK


def test_plan_takes_no_configuration_and_an_empty_one_for_the_same() -> None:
    assert decide(with_({"config": {}}), stored({"config": None})) is Step.CHECK
    assert decide(with_({"host_config.resources": {}}), stored({"host_config.resources": None})) is Step.CHECK


def container(container_id: str, name: str, status: Status = Status.STOPPED) -> Container:
    return Container(id=container_id, name=name, state=State(status=status))


def test_plan_finds_the_container_by_its_name_and_then_by_its_id() -> None:
    wanted = container("c1", "seat")
    named, same_id = container("c2", "seat"), container("c1", "other")
    assert find(wanted, [same_id, named]) is named
    assert find(wanted, [same_id]) is same_id
    assert find(wanted, [container("c3", "other")]) is None


def test_plan_chooses_of_several_with_the_name_the_one_with_the_id_then_one_that_runs_then_the_newest() -> (
    None
):
    wanted = container("", "seat")
    old, running, new = (
        container("c1", "seat"),
        container("c2", "seat", Status.RUNNING),
        container("c3", "seat"),
    )
    assert find(wanted, [old, new]) is new
    assert find(wanted, [old, running, new]) is running
    assert find(replace(wanted, id="c1"), [old, running, new]) is old
