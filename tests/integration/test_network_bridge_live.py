# SPDX-License-Identifier: Apache-2.0
"""The bridge network, on the real CNI plugins and packet filter, in a network namespace of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from bridge_world import FOREVER, SERVE, World, bridged, port
from containerd_server import ContainerdServer, wait_until
from images import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from network_world import Machine

pytestmark = pytest.mark.integration

#: Says who answers under a name, until somebody does.
ASK = "until wget -q -O - http://{0}/name 2>/dev/null; do sleep 0.05; done; " + FOREVER


@pytest.fixture
def world(tmp_path: Path, containerd: ContainerdServer, machine: Machine) -> Iterator[World]:
    with bridged(tmp_path, containerd, machine) as world:
        yield world


def add_link(machine: Machine) -> None:
    """A network card of the machine, 10.99.0.1, with 10.99.0.2 at the other end, if anybody is there."""
    machine.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
    machine.run("ip", "address", "add", "10.99.0.1/24", "dev", "out0")
    machine.run("ip", "link", "set", "out0", "up")


# ── ports ──


def test_curl_reaches_a_published_port_by_loopback_and_by_every_address(world: World) -> None:
    add_link(world.machine)
    address = world.start("web", SERVE, port_mappings=[port(30555)])
    for host in ("127.0.0.1", "10.99.0.1", "172.17.0.1"):
        assert world.machine.fetch(f"http://{host}:30555/name") == "web-host\n"
    assert world.machine.fetch(f"http://{address}/name") == "web-host\n"


def test_a_port_published_on_localhost_is_not_there_for_others(world: World) -> None:
    add_link(world.machine)
    world.start("web", SERVE, port_mappings=[port(30555, host_ip="localhost")])
    world.start("lan", SERVE, port_mappings=[port(30555, host_ip="10.99.0.1")])
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "web-host\n"
    assert world.machine.fetch("http://10.99.0.1:30555/name") == "lan-host\n"
    refused = world.machine.run("curl", "-sS", "-m", "5", "http://172.17.0.1:30555/name", check=False)
    assert refused.returncode == 7


def test_containers_share_a_range_of_ports_until_it_is_full(world: World) -> None:
    shared = [port(30555, host_port_end=30556)]
    world.start("first", SERVE, port_mappings=shared)
    world.start("second", SERVE, port_mappings=shared)
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "first-host\n"
    assert world.machine.fetch("http://127.0.0.1:30556/name") == "second-host\n"
    world.create("third", port_mappings=shared)
    done = world.agent.call("start", "third")
    taken = "host port 30555/tcp is in use by container first, and the others up to 30556 are in use too"
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"port mapping 30555-30556:80/tcp: {taken}" in done.stderr
    world.agent.cm("stop", "-t", "1s", "-f", "first")
    world.agent.cm("start", "third")
    assert world.agent.state("third")["running"]


def test_a_container_with_many_wide_ranges_starts_and_keeps_nobody_waiting(world: World) -> None:
    """What each mapping costs does not depend on how many came before, nor on how wide it is."""
    many = [port(1, host_port_end=65535, host_ip="127.0.0.1")] * 64
    world.create("many", SERVE, port_mappings=many)
    world.create("other")
    with world.agent.popen("start", "many") as starting:
        world.agent.cm("start", "other")
        assert starting.wait(60) == 0
    sandbox = json.loads((world.agent.run / "network" / "sandboxes" / "many.json").read_text())
    ports = [published["host_port"] for published in sandbox["published"]]
    assert len(set(ports)) == len(ports) == 64
    assert world.machine.fetch(f"http://127.0.0.1:{ports[-1]}/name") == "many-host\n"
    done = world.try_create("more", port_mappings=[port(1, host_port_end=65535)] * 257)
    assert "host_config.port_mappings has 257 entries; at most 256 are allowed" in done.stderr


def test_a_port_that_a_program_holds_is_refused_with_its_name_and_nothing_is_left(world: World) -> None:
    code = (
        "import socket,sys; s=socket.create_server(('127.0.0.1',30555)); print(flush=True); sys.stdin.read()"
    )
    command = [*world.machine.inside, sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        world.create("web", SERVE, port_mappings=[port(30555)])
        done = world.agent.call("start", "web")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"host port 30555/tcp is in use by pid {holder.pid} (" in done.stderr
        world.assert_nothing_left()
        assert holder.stdin
        holder.stdin.close()
    world.agent.cm("start", "web")
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "web-host\n"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("70000:80", "70000"),
        ("30555:70000", "70000"),
        ("30556-30555:80", "30556-30555:80"),
        ("0:80", "port"),
        ("30555:80/icmp", "icmp"),
        ("device.local:30555:80", "device.local"),
    ],
)
def test_ports_that_make_no_sense_are_one_clear_error(world: World, flag: str, said: str) -> None:
    done = world.agent.call("create", "--ports", flag, IMAGE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr
    assert world.agent.ids() == []


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (port(30556, host_port_end=30555), "host port range 30556-30555 ends before it begins"),
        (port(70000), "host_config.port_mappings[0].host_port"),
        (port(30555, 0), "container port must be 1 to 65535"),
        (port(30555, proto="icmp"), "protocol 'icmp' is not tcp, udp or sctp"),
        (
            port(30555, host_ip="device.local"),
            "host_ip must be localhost or an IPv4 address of this machine, got 'device.local'",
        ),
    ],
)
def test_a_descriptor_with_such_ports_is_refused_too(
    world: World, mapping: dict[str, object], said: str
) -> None:
    done = world.try_create("web", port_mappings=[mapping])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr
    assert world.agent.ids() == []


def test_containers_that_start_and_stop_all_at_once_get_a_port_and_an_address_each(world: World) -> None:
    names = [f"c{number}" for number in range(8)]
    for name in names:
        world.create(name, SERVE, port_mappings=[port(30555, host_port_end=30562)])
    at_once(world, *(("start", name) for name in names))
    assert len({world.address(name) for name in names}) == 8
    answers = {world.machine.fetch(f"http://127.0.0.1:{30555 + i}/name") for i in range(8)}
    assert answers == {f"{name}-host\n" for name in names}
    at_once(world, *(("stop", "-f", "-t", "1s", name) for name in names))
    world.assert_nothing_left()


def at_once(world: World, *commands: tuple[str, ...]) -> None:
    running = [
        subprocess.Popen(world.agent.command(*command), stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")


# ── names ──


def test_two_containers_find_each_other_by_name(world: World) -> None:
    world.start(
        "one", f"{SERVE.replace('exec ', '')} & {ASK.format('two')}", extra_hosts=["two:container_two-host"]
    )
    world.start(
        "two", f"{SERVE.replace('exec ', '')} & {ASK.format('one')}", extra_hosts=["one:container_one-host"]
    )
    wait_until(lambda: world.agent.logged("one") == ["two-host"], 20, "one has reached two")
    wait_until(lambda: world.agent.logged("two") == ["one-host"], 20, "two has reached one")


def test_net_token_unresolved(world: World) -> None:
    """A consumer started before its provider resolves it the moment that is up; and no more, when it is gone."""
    world.start("consumer", ASK.format("db"), extra_hosts=["db:container_db-host"])
    pid = world.agent.state("consumer")["pid"]
    assert "db" not in world.hosts("consumer")
    address = world.start("db", SERVE)
    assert world.hosts("consumer")["db"] == address
    wait_until(lambda: world.agent.logged("consumer") == ["db-host"], 20, "the consumer reaches it")
    world.agent.cm("stop", "-t", "1s", "-f", "db")
    assert "db" not in world.hosts("consumer")
    world.start("between")  # so that the next address is another one
    world.agent.cm("start", "db")
    assert world.hosts("consumer")["db"] == world.address("db") != address
    assert world.agent.state("consumer")["pid"] == pid


def test_net_token_ambiguous(world: World) -> None:
    world.start("first", host_name="h")
    world.start("consumer", extra_hosts=["x:container_h", "y:192.0.2.9"])
    assert world.hosts("consumer")["x"] == world.address("first")
    world.start("second", host_name="h")
    assert "x" not in world.hosts("consumer")
    assert world.hosts("consumer")["y"] == "192.0.2.9"
    world.agent.cm("stop", "first")
    assert world.hosts("consumer")["x"] == world.address("second")


def test_net_host_mode_hostname(tmp_path: Path, containerd: ContainerdServer, machine: Machine) -> None:
    named = ("unshare", "--uts", "sh", "-c", 'hostname dev42 && exec "$@"', "sh")
    with AgentProcess(tmp_path, containerd, inside=(*machine.inside, *named)) as agent:
        world = World(agent, machine)
        world.create("c1", "echo $HOSTNAME; hostname; " + FOREVER, host_name="custom", network_mode="host")
        agent.cm("start", "c1")
        assert agent.get("c1")["host_name"] == "dev42"
        wait_until(lambda: agent.logged("c1") == ["dev42", "dev42"], 20, "the container says its name")


def test_tokens_for_the_machine_are_the_addresses_of_its_interfaces(world: World) -> None:
    add_link(world.machine)
    tokens = ["machine:host_ip", "card:host_ip_out0", "none:host_ip_wlan9", "six:2001:db8::1"]
    address = world.start("c1", extra_hosts=tokens)
    hosts = world.hosts("c1")
    assert (hosts["machine"], hosts["card"], hosts["six"]) == ("172.17.0.1", "10.99.0.1", "2001:db8::1")
    assert "none" not in hosts
    assert hosts["c1-host"] == hosts["c1-host.c1-domain"] == address


def test_the_files_of_a_container_are_as_the_container_sees_them(world: World) -> None:
    world.start("c1", "cat /etc/hostname; hostname; " + FOREVER)
    wait_until(lambda: world.agent.logged("c1") == ["c1-host", "c1-host"], 20, "the container says its name")
    pid = world.agent.state("c1")["pid"]
    assert "nameserver" in Path(f"/proc/{pid}/root", "etc/resolv.conf").read_text()
    found = world.agent.get("c1")["network_settings"]
    assert Path(found["sandbox_key"]).parent == world.agent.run / "netns"
    stored = json.loads((world.agent.home / "containers" / "c1" / "config.json").read_text())[
        "network_settings"
    ]
    assert stored == {key: value for key, value in found.items() if key != "sandbox_id"}
    endpoint = found["networks"]["bridge"]
    assert endpoint["gateway"] == "172.17.0.1"
    assert endpoint["mac_address"] in world.inside("c1", "ip", "link", "show", "eth0").stdout


# ── an agent that ends and comes back ──


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_network_of_running_containers_outlives_the_agent(world: World, number: signal.Signals) -> None:
    world.start("web", SERVE, port_mappings=[port(30555)])
    world.start("consumer", extra_hosts=["web:container_web-host", "db:container_db-host"])
    world.start("db")
    before = world.agent.get("web")["network_settings"]
    pid = world.agent.state("db")["pid"]
    world.agent.end(number)
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "web-host\n"
    os.kill(pid, signal.SIGKILL)
    world.agent.start()
    world.agent.wait_for("db", status=5)
    wait_until(lambda: "db" not in world.hosts("consumer"), 20, "who has gone meanwhile is no peer any more")
    assert world.hosts("consumer")["web"] == world.address("web")
    assert world.agent.get("web")["network_settings"] == before
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "web-host\n"
    world.agent.cm("start", "db")
    assert world.hosts("consumer")["db"] == world.address("db")


def test_a_container_that_restarts_by_itself_keeps_its_port(world: World) -> None:
    script = f"[ -e /tmp/again ] && {{ {SERVE}; }}; touch /tmp/again; exit 1"
    world.create("web", script, policy="on-failure", port_mappings=[port(30555)])
    world.agent.cm("start", "web")
    assert world.machine.fetch("http://127.0.0.1:30555/name") == "web-host\n"
    assert world.agent.get("web")["restart_count"] == 1
