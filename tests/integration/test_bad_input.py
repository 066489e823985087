# SPDX-License-Identifier: Apache-2.0
"""A description that makes no sense or asks for what is not there gets one clear error, by whichever way it comes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from connector import Connector
from google.protobuf.empty_pb2 import Empty
from grpclib.exceptions import GRPCError
from images import IMAGE
from mosquitto_server import MosquittoServer

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.errors import PycmError
from pycm.model import records
from pycm.model.container import Container
from pycm.model.frozen import replace
from support.grpc_calls import call

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from containerd_server import ContainerdServer

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Case:
    """*flags* on the command line, *grpc* as parts of a description, *mqtt* as parts of the twin's; *said* in each answer.

    Where the ways differ in words, *said* is what they share, and *flags_said* is the command line's own.
    """

    said: str
    flags: tuple[str, ...] = ()
    grpc: Mapping[str, Any] = field(default_factory=dict)
    mqtt: Mapping[str, Any] = field(default_factory=dict)
    flags_said: str = ""


def ports(host: int, container: int, end: int = 0, **said: str) -> Case:
    mapping = {"host_port": host, "container_port": container, "host_port_end": end}
    twin = {"hostPort": host, "containerPort": container, "hostPortEnd": end}
    return Case(
        flags=("--network", "bridge", "--ports", f"{host}-{end}:{container}" if end else f"{host}:{container}"),
        grpc={"host_config": {"network_mode": "bridge", "port_mappings": [mapping]}},
        mqtt={"networkMode": "BRIDGE", "portMappings": [twin]},
        **said,
    )  # fmt: skip


def health(said: str, *flags: str, **check: Any) -> Case:
    names = {"start_period": "startPeriod"}
    return Case(
        said,
        flags,
        {"config": {"health_check": check}},
        {"healthCheck": {names.get(key, key): value for key, value in check.items()}},
    )


#: Refused before anything is made.
REFUSED = {
    "host port out of range": ports(
        70000, 80, said="70000 is not between 0 and 65535", flags_said="host port mapping configuration 70000:80"
    ),
    "container port out of range": ports(
        80, 65536, said="65536 is not between 0 and 65535", flags_said="container port mapping configuration 80:65536"
    ),
    "no host port": ports(0, 80, said="port mapping 0:80: host port must be 1 to 65535"),
    "reversed range": ports(
        90, 80, 80, said="host port range 90-80 ends before it begins",
        flags_said="host range port mapping configuration 90-80:80",
    ),
    "two ways to check health": health(
        "health_check has both exec and tcp", "--health-cmd", "x", "--health-tcp", "80", exec=["x"], tcp=80
    ),
    "no way to check health": health("health_check has neither exec nor tcp", "--health-interval", "5s", interval="5s"),
    "a check without pause": health(
        "health_check.interval 0s is not between 1s and 24h0m0s",
        "--health-cmd", "x", "--health-interval", "0s", exec=["x"], interval="0s",
    ),
    "a time that is none": health(
        "health_check.timeout: ", "--health-cmd", "x", "--health-timeout", "soon", exec=["x"], timeout="soon"
    ),
    "fewer than no retries": health(
        "health_check.retries -1 is not between 1 and 1000",
        "--health-cmd", "x", "--health-retries", "-1", exec=["x"], retries=-1,
    ),
    "a period that is over before it begins": health(
        "health_check.start_period -5s is not between 0s and 24h0m0s",
        "--health-cmd", "x", "--health-start-period", "-5s", exec=["x"], start_period="-5s",
    ),
    "a health port out of range": health("70000", "--health-tcp", "70000", tcp=70000),
    "permissions that are none": Case(
        "cgroup permissions",
        ("--devices", "/dev/null:/dev/x:rx"),
        {"host_config": {"network_mode": "host", "devices": [
            {"path_on_host": "/dev/null", "path_in_container": "/dev/x", "cgroup_permissions": "rx"}]}},
        {"devices": [{"pathOnHost": "/dev/null", "pathInContainer": "/dev/x", "cgroupPermissions": "rx"}]},
    ),
    "a relative mount source": Case(
        "mount_points[0].source must be an absolute path, got './rel'; relative paths and named volumes",
        ("--mp", "./rel:/d"),
        {"mount_points": [{"source": "./rel", "destination": "/d"}]},
        {"mountPoints": [{"source": "./rel", "destination": "/d"}]},
    ),
    "a named volume": Case(
        "mount_points[0].source must be an absolute path, got 'myvol'",
        ("--mp", "myvol:/d"),
        {"mount_points": [{"source": "myvol", "destination": "/d"}]},
        {"mountPoints": [{"source": "myvol", "destination": "/d"}]},
    ),
    "a host name beyond the kernel's bound": Case(
        "has 65 bytes; at most 64 are allowed", ("-n", "n" * 60), {"host_name": "h" * 65}, {"hostName": "h" * 65}
    ),
    "more extra hosts than are allowed": Case(
        "host_config.extra_hosts has 1025 entries; at most 1024 are allowed",
        ("--hosts", ",".join(["a:10.0.0.1"] * 1025)),
        {"host_config": {"network_mode": "host", "extra_hosts": ["a:10.0.0.1"] * 1025}},
        {"extraHosts": ["a:10.0.0.1"] * 1025},
    ),
}  # fmt: skip

#: Refused at the start: this machine lacks it, and may have it later.
NOT_THERE = {
    "mount source": Case(
        "mount source '/no/such/place' does not exist on this machine",
        ("--mp", "/no/such/place:/m"),
        {"mount_points": [{"source": "/no/such/place", "destination": "/m"}]},
        {"mountPoints": [{"source": "/no/such/place", "destination": "/m"}]},
    ),
    "device node": Case(
        "device '/dev/no-such-device' is not a device node of this machine",
        ("--devices", "/dev/no-such-device:/dev/x"),
        {"host_config": {"network_mode": "host", "devices": [
            {"path_on_host": "/dev/no-such-device", "path_in_container": "/dev/x"}]}},
        {"devices": [{"pathOnHost": "/dev/no-such-device", "pathInContainer": "/dev/x"}]},
    ),
    "CPU": Case(
        "cpuset_cpus '0,4000' names CPUs that this machine does not have",
        ("--cpuset-cpus", "0,4000"),
        {"host_config": {"network_mode": "host", "resources": {"cpuset_cpus": "0,4000"}}},
        {"resources": {"cpusetCpus": "0,4000"}},
    ),
}  # fmt: skip


@dataclass
class World:
    agent: AgentProcess
    cloud: Connector

    # Each returns the id of what was created, or raises PycmError with the one line that was said.

    def by_command_line(self, case: Case) -> str:
        done = self.agent.call("create", "--network", "host", "--rp", "no", *case.flags, IMAGE)
        return _one_line(done.returncode, done.stdout, done.stderr)

    def by_grpc(self, case: Case) -> str:
        base = {"image": {"name": IMAGE}, "host_config": {"network_mode": "host"}, "io_config": {}}
        container = records.decode(Container, {**base, **_lenient(case.grpc)})
        request = m.CreateContainerRequest()
        records.to_message(_with_numbers(container, case.grpc), request.container)
        (answer,) = self._call("Create", request, m.CreateContainerResponse)
        return answer.container.id

    def by_mqtt(self, case: Case) -> str:
        config = {"networkMode": "HOST", "restartPolicy": {"type": "NO"}, **case.mqtt}
        argument = {"imageRef": IMAGE, "config": config}
        return _answered(*self.cloud.ask("ContainerFactory", "createWithConfig", argument))

    def start_by_mqtt(self, container_id: str) -> str:
        return _answered(*self.cloud.ask(f"Container:{container_id}", "start"))

    def start_by_command_line(self, container_id: str) -> str:
        done = self.agent.call("start", container_id)
        return _one_line(done.returncode, done.stdout, done.stderr)

    def start_by_grpc(self, container_id: str) -> str:
        self._call("Start", m.StartContainerRequest(id=container_id), Empty)
        return ""

    def _call(self, method: str, request: Any, answer: type[Any]) -> list[Any]:
        try:
            return call(str(self.agent.socket), method, request, answer)
        except GRPCError as error:
            raise PycmError(str(error.message)) from None


def _one_line(code: int, out: str, error: str) -> str:
    if code == 0:
        return out.strip()
    assert (out, error.count("\n")) == ("", 1)
    raise PycmError(error.strip())


def _answered(status: int, value: Any) -> str:
    if status < 300:
        return str(value)
    raise PycmError(str(value["message"]))


def _lenient(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Without the numbers that the decoder of files refuses by itself: they go onto the wire as they are."""
    text = json.dumps(parts)
    for number in ("70000", "65536"):
        text = text.replace(f": {number}", ": 1")
    found: dict[str, Any] = json.loads(text)
    return found


def _with_numbers(container: Container, parts: Mapping[str, Any]) -> Container:
    host, config = container.host_config, container.config
    if host is not None and host.port_mappings:
        (given,) = parts["host_config"]["port_mappings"]
        (mapping,) = host.port_mappings
        host = replace(host, port_mappings=(replace(mapping, **given),))
    if config is not None and config.health_check is not None:
        tcp = parts["config"]["health_check"].get("tcp", 0)
        config = replace(config, health_check=replace(config.health_check, tcp=tcp))
    return replace(container, host_config=host, config=config)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, containerd: ContainerdServer) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("agent")
    with (
        MosquittoServer(directory) as broker,
        AgentProcess(directory, containerd, broker) as agent,
        Connector(broker.port) as cloud,
    ):
        cloud.wait_for_twin()
        yield World(agent, cloud)


WAYS = ("command_line", "grpc", "mqtt")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(world: World, name: str, way: str) -> None:
    case = REFUSED[name]
    with pytest.raises(PycmError) as caught:
        getattr(world, f"by_{way}")(case)
    said = str(caught.value)
    assert (case.flags_said if way == "command_line" and case.flags_said else case.said) in said
    assert "\n" not in said
    assert "Traceback" not in said
    assert world.agent.ids() == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NOT_THERE)
def test_what_is_not_on_this_machine_is_named_at_the_start(world: World, name: str, way: str) -> None:
    container_id = getattr(world, f"by_{way}")(NOT_THERE[name])
    try:
        with pytest.raises(PycmError) as caught:
            getattr(world, f"start_by_{way}")(container_id)
        said = str(caught.value)
        assert NOT_THERE[name].said in said
        assert "\n" not in said
        state = world.agent.state(container_id)
        assert (state["status"], NOT_THERE[name].said in state["error"]) == (3, True)
    finally:
        world.agent.cm("remove", container_id)


def test_a_hook_that_is_not_there_is_named(world: World) -> None:
    hook = {"path": "/no/such/hook", "type": 0}
    container_id = world.by_grpc(Case("", grpc={"hooks": [hook]}))
    with pytest.raises(PycmError, match="hook '/no/such/hook' is not a program of this machine"):
        world.start_by_grpc(container_id)
    world.agent.cm("remove", container_id)
    with pytest.raises(PycmError, match="hook path 'relative' is not an absolute path"):
        world.by_grpc(Case("", grpc={"hooks": [{**hook, "path": "relative"}]}))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"host_config": {"network_mode": "host", "runtime": "../../x"}},
            "runtime '../../x' is not the name of",
        ),
        ({"hooks": [{"path": "/bin/true", "timeout": -1}]}, "hook '/bin/true': timeout -1 is negative"),
    ],
    ids=["runtime", "hook timeout"],
)
def test_what_only_a_description_can_say_is_refused_too(
    world: World, tmp_path: Path, parts: Mapping[str, Any], said: str
) -> None:
    description = {"image": {"name": IMAGE}, "host_config": {"network_mode": "host"}, **parts}
    file = tmp_path / "description.json"
    file.write_text(json.dumps(description))
    done = world.agent.call("create", "--file", file)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert said in done.stderr
    assert world.agent.ids() == []


def with_log_root(root: object) -> Case:
    log = {"driver_config": {"root_dir": str(root)}}
    return Case("", grpc={"host_config": {"network_mode": "host", "log_config": log}})


def test_a_log_directory_that_cannot_be_used_is_named_at_creation(world: World, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for root, why in ((file, "Not a directory"), ("/proc/no-such", "No such file or directory")):
        with pytest.raises(PycmError, match=f"log root directory '{root}' cannot be used: {why}$"):
            world.by_grpc(with_log_root(root))
        assert world.agent.ids() == []


def test_a_log_directory_that_cannot_be_used_any_more_is_named_at_the_start(
    world: World, tmp_path: Path
) -> None:
    root = tmp_path / "logs"
    container_id = world.by_grpc(with_log_root(root))
    try:
        (root / container_id / "json.log").unlink()
        (root / container_id).rmdir()
        root.rmdir()
        root.touch()
        with pytest.raises(PycmError, match=f"log root directory '{root}' cannot be used: Not a directory"):
            world.start_by_grpc(container_id)
        state = world.agent.state(container_id)
        assert "cannot be used: Not a directory" in state["error"]
        root.unlink()
        world.start_by_grpc(container_id)
    finally:
        world.agent.cm("remove", "-f", container_id)
    assert not list(root.iterdir())
