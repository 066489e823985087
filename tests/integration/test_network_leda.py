# SPDX-License-Identifier: Apache-2.0
"""Containers as Eclipse Leda describes its own: pulled from a registry, made with `kanto-cm create --file`, started, and in touch.

The descriptors have every trait of Leda's: a fixed `container_id`, ports with the key `protocol` and the host address `localhost`,
`extra_hosts` that name the machine and another container, `resources: null`, an empty `cmd`, several flags in one string of `cmd`,
lower-case names of variables, and no `io_config` in some.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from bridge_world import World, bridged
from containerd_server import ContainerdServer, private_containerd, wait_until
from images import Image
from network_world import private_network
from registry_server import RegistryServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: What its Cmd begins: an empty `cmd` of the descriptor leaves it as it is.
BROKER = "echo $broker_level >/tmp/vehicle; exec busybox httpd -f -p 55555 -h /tmp"
#: Says which arguments it got, then what the broker says.
FEEDER = """\
for word in "$@"; do echo "argument $word"; done
until wget -q -O - http://databroker:55555/vehicle 2>/dev/null; do sleep 0.05; done
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, containerd: ContainerdServer) -> Iterator[tuple[World, RegistryServer]]:
    with private_network() as machine, RegistryServer(tmp_path, inside=machine.inside) as registry:
        env = ["PATH=/bin"]
        registry.push(Image(config={"Cmd": ["/bin/sh", "-c", BROKER], "Env": env}), "kuksa/databroker", "0.4")
        feeder = {"Entrypoint": ["/bin/sh", "-c", FEEDER, "feeder"], "Cmd": ["--help"], "Env": env}
        registry.push(Image(config=feeder), "kuksa/feeder", "main")
        with bridged(tmp_path, containerd, machine) as world:
            yield world, registry


def host(**more: Any) -> dict[str, Any]:
    return {
        "devices": [],
        "network_mode": "bridge",
        "privileged": False,
        "restart_policy": {"maximum_retry_count": 0, "retry_timeout": 0, "type": "unless-stopped"},
        "runtime": "io.containerd.runc.v2",
        "extra_hosts": [],
        "port_mappings": [],
        "log_config": {
            "driver_config": {"type": "json-file", "max_files": 2, "max_size": "1M", "root_dir": ""},
            "mode_config": {"mode": "blocking", "max_buffer_size": ""},
        },
        "resources": None,
        **more,
    }


def descriptors(registry: str) -> dict[str, dict[str, Any]]:
    port = {"protocol": "tcp", "container_port": 55555, "host_ip": "localhost", "host_port": 30555, "host_port_end": 30555}  # fmt: skip
    broker = {
        "container_id": "databroker",
        "container_name": "databroker",
        "image": {"name": f"{registry}/kuksa/databroker:0.4"},
        "host_config": host(port_mappings=[port]),
        "io_config": {"open_stdin": False, "tty": False},
        "config": {"env": ["LOG=info", "broker_level=debug"], "cmd": []},
    }
    names = ["mosquitto:host_ip", "databroker:container_databroker-host"]
    feeder = {
        "container_id": "feeder",
        "container_name": "feeder",
        "image": {"name": f"{registry}/kuksa/feeder:main"},
        "host_config": host(extra_hosts=names),
        "config": {"env": ["OPTIONS=-S 2948 gpsd://host:2947"], "cmd": ["--insecure=True", "--ip databroker", "--port 55555"]},
    }  # fmt: skip
    return {"feeder": feeder, "databroker": broker}


def test_descriptors_with_the_traits_of_ledas_run_and_find_each_other(
    world: tuple[World, RegistryServer], tmp_path: Path
) -> None:
    bridge, registry = world
    agent, machine = bridge.agent, bridge.machine
    for name, descriptor in descriptors(registry.host).items():  # the consumer first
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(descriptor, indent=4))
        done = agent.call("create", "--file", file)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")
        agent.cm("start", "-n", name)
    assert machine.fetch("http://127.0.0.1:30555/vehicle") == "debug\n"
    said = ["argument --insecure=True", "argument --ip databroker", "argument --port 55555", "debug"]
    wait_until(lambda: agent.logged("feeder") == said, 20, "the feeder reaches the broker")
    hosts = bridge.hosts("feeder")
    assert (hosts["mosquitto"], hosts["databroker"]) == ("172.17.0.1", bridge.address("databroker"))
    for name in ("feeder", "databroker"):
        found = agent.get(name)
        assert (found["container_id"], found["host_name"]) == (name, f"{name}-host")
        assert found["state"]["running"]
        assert found["host_config"]["resources"] is None
    (mapping,) = agent.get("databroker")["host_config"]["port_mappings"]
    assert (mapping["proto"], mapping["host_ip"]) == ("tcp", "localhost")


def test_they_are_reached_on_loopback_only_and_come_back_with_the_next_agent(
    world: tuple[World, RegistryServer], tmp_path: Path
) -> None:
    bridge, registry = world
    agent, machine = bridge.agent, bridge.machine
    file = tmp_path / "databroker.json"
    file.write_text(json.dumps(descriptors(registry.host)["databroker"]))
    agent.cm("create", "--file", file)
    agent.cm("start", "databroker")
    registry.stop()  # nothing of it is needed any more
    agent.kill()
    agent.start()
    url = "http://{}:30555/vehicle"
    assert machine.fetch(url.format("127.0.0.1")) == "debug\n"
    assert machine.run("curl", "-sS", "-m", "2", url.format("172.17.0.1"), check=False).returncode != 0
    agent.cm("stop", "-t", "1s", "-f", "databroker")
    agent.cm("start", "databroker")
    assert machine.fetch(url.format("127.0.0.1")) == "debug\n"
