# SPDX-License-Identifier: Apache-2.0
"""The options of `network.default_bridge`, each as the machine's kernel, packet filter and neighbours see it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from bridge_world import SERVE, World, bridged, port
from images import IMAGE
from network_world import Machine, private_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containerd_server import ContainerdServer

pytestmark = pytest.mark.integration

PLUGINS = "/usr/lib/cni"
#: Answers once, with the address that the question came from.
TELL = """
import socket
with socket.create_server(("10.99.0.2", 80)) as server:
    print(flush=True)
    connection, (address, _) = server.accept()
    connection.sendall(f"HTTP/1.0 200 OK\\r\\n\\r\\n{address}".encode())
"""


@contextlib.contextmanager
def configured(
    directory: Path, containerd: ContainerdServer, machine: Machine, bridge: str, network: str = ""
) -> Iterator[World]:
    """An agent with these lines in [network] and [network.default_bridge]."""
    lines = f"{network}\n[network.default_bridge]\n{bridge}"
    with bridged(directory, containerd, machine, lines) as world:
        yield world


def reaches(world: World, name: str, url: str, seconds: int = 60) -> bool:
    """Whether a container gets an answer within so many *seconds*."""
    command = ("curl", "-sS", "-m", str(seconds), "--noproxy", "*", "-o", "/dev/null", url)
    return world.inside(name, *command, check=False).returncode == 0


def serve(world: World, name: str, host_port: int = 0) -> str:
    """A container that answers; it does so already."""
    ports = {"port_mappings": [port(host_port)]} if host_port else {}
    address = world.start(name, SERVE, **ports)
    assert world.machine.fetch(f"http://{address}/name") == f"{name}-host\n"
    return address


# ── addresses ──


def test_address_range_gateway_name_and_mtu_are_as_configured(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    options = 'ip4 = "10.77.3.1/24"\nfcidr4 = "10.77.3.128/25"\ngwip4 = "10.77.3.9"\nname = "br7"\nmtu = 1400'
    with configured(tmp_path, containerd, machine, options) as world:
        addresses = [world.start(name) for name in ("one", "two")]
        assert addresses == ["10.77.3.128", "10.77.3.129"]
        assert "10.77.3.1/24" in machine.run("ip", "-brief", "address", "show", "br7").stdout
        assert "default via 10.77.3.9 dev eth0" in world.inside("one", "ip", "route").stdout
        assert world.agent.get("one")["network_settings"]["networks"]["bridge"]["gateway"] == "10.77.3.9"
        for link in (
            machine.run("ip", "link", "show", "br7"),
            world.inside("one", "ip", "link", "show", "eth0"),
        ):
            assert "mtu 1400" in link.stdout
        assert "kanto-cm0" not in machine.interfaces()


def test_a_range_that_is_used_up_is_an_error_and_an_address_that_is_given_back_is_given_again(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, 'ip4 = "10.77.3.1/29"\nfcidr4 = "10.77.3.4/31"') as world:
        assert [world.start("one"), world.start("two")] == ["10.77.3.4", "10.77.3.5"]
        world.create("three")
        done = world.agent.call("start", "three")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no IP addresses available" in done.stderr
        assert len(world.left()["namespaces"]) == len(world.left()["records"]) == 2
        world.agent.cm("stop", "one")
        world.agent.cm("start", "three")
        assert world.address("three") == "10.77.3.4"


def test_without_an_address_the_first_private_range_that_is_free_is_taken(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    machine.run("ip", "link", "add", "card0", "type", "bridge")
    machine.run("ip", "address", "add", "172.17.9.1/24", "dev", "card0")
    machine.run("ip", "link", "set", "card0", "up")
    machine.run("ip", "route", "add", "172.18.0.0/16", "via", "172.17.9.7")
    with configured(tmp_path, containerd, machine, "") as world:
        assert world.start("one") == "172.19.0.2"


def add_card(machine: Machine, address: str) -> None:
    machine.run("ip", "link", "add", "card0", "type", "bridge")
    machine.run("ip", "address", "add", address, "dev", "card0")
    machine.run("ip", "link", "set", "card0", "up")


def assert_refused(world: World, name: str, said: str) -> None:
    """Bridge containers get the error; those on the host's network do not notice."""
    done = world.agent.call("start", name)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert said in done.stderr
    assert f'level=warning msg="bridge network: unusable: {said}' in world.agent.text()
    world.create("here", network_mode="host")
    world.agent.cm("start", "here")
    assert world.agent.state("here")["running"]


@pytest.mark.parametrize(
    "commands", [("address add 10.77.3.7/16 dev card0",), ("route add 10.77.3.128/25 via 192.0.2.7",)]
)
def test_a_network_that_is_taken_is_an_error_of_bridge_containers_until_it_is_free(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine, commands: tuple[str, ...]
) -> None:
    add_card(machine, "192.0.2.1/24")
    for command in commands:
        machine.run("ip", *command.split())
    with configured(tmp_path, containerd, machine, 'ip4 = "10.77.3.1/24"') as world:
        world.create("one", policy="always")
        assert_refused(world, "one", "network.default_bridge.ip4: 10.77.3.1/24 overlaps 10.77.3.")
        for command in commands:
            machine.run("ip", *command.replace(" add ", " del ").split())
        world.agent.cm("start", "one")
        assert world.address("one") == "10.77.3.2"


def test_a_name_that_another_interface_has_is_an_error_of_bridge_containers(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, 'name = "lo"') as world:
        world.create("one")
        assert_refused(
            world,
            "one",
            "network.default_bridge.name: 'lo' is an interface of this machine, but not a bridge",
        )
    assert machine.interfaces() == []


@pytest.mark.parametrize("options", ["", 'ip4 = "172.20.0.1/16"'])
@pytest.mark.parametrize("routes", [("0.0.0.0/1", "128.0.0.0/1"), ("172.16.0.0/12", "192.168.0.0/16")])
def test_the_routes_of_a_vpn_take_nothing_from_the_bridge(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine, options: str, routes: tuple[str, ...]
) -> None:
    add_card(machine, "192.0.2.1/24")
    with configured(tmp_path, containerd, machine, options) as world:
        for route in routes:
            machine.run("ip", "route", "add", route, "via", "192.0.2.7")
        serve(world, "one")
        world.agent.cm("stop", "-f", "-t", "1s", "one")
        world.agent.end()
        world.agent.start()  # the VPN was there first
        world.agent.cm("start", "one")
        assert world.machine.fetch(f"http://{world.address('one')}/name") == "one-host\n"
        assert "unusable" not in world.agent.text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('ip4 = "10.77.3.1"', "ip4: '10.77.3.1' is not an address with a prefix length"),
        (
            'ip4 = "10.77.3.1/24"\nfcidr4 = "10.78.0.0/16"',
            "fcidr4: '10.78.0.0/16' is not inside ip4 10.77.3.1/24",
        ),
        ('ip4 = "10.77.3.1/24"\ngwip4 = "10.78.0.1"', "gwip4: '10.78.0.1' is not inside ip4 10.77.3.1/24"),
        ('gwip4 = "10.78.0.1"', "gwip4: '10.78.0.1' needs ip4"),
        ('name = "a/b"', "name: 'a/b' is not a name of an interface"),
        ("mtu = 20", "mtu: 20 is less than 68"),
        ("icc = false\nip_tables = false", "icc = false needs ip_tables = true"),
    ],
)
def test_option_that_cannot_be_disables_the_bridge_with_one_line(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine, options: str, said: str
) -> None:
    with configured(tmp_path, containerd, machine, options) as world:
        (line,) = [line for line in world.agent.text().splitlines() if "level=error" in line]
        assert f"network.default_bridge.{said}" in line
        assert "(network mode bridge is disabled)" in line
        assert_only_host_mode(world, "an error in section network")


def test_the_bridge_keeps_its_address_while_containers_are_on_it(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, 'ip4 = "10.77.3.1/24"') as world:
        world.start("one")
        agent = world.agent
        agent.end()
        agent.config.write_text(agent.config.read_text().replace("10.77.3.1", "10.88.3.1"))
        agent.start()
        assert world.start("two") == "10.77.3.3"
        assert "containers are connected (keeping 10.77.3.1/24)" in agent.text()
        for name in ("one", "two"):
            agent.cm("stop", name)
        agent.cm("start", "one")
        assert world.address("one") == "10.88.3.2"
        assert "10.77" not in machine.run("ip", "address").stdout


# ── who reaches whom ──


def test_containers_and_published_ports_are_reached_by_each_other(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, "") as world:
        address = serve(world, "web", 30555)
        world.start("peer")
        assert reaches(world, "peer", f"http://{address}/")
        assert reaches(world, "peer", "http://172.17.0.1:30555/")
        assert reaches(world, "web", "http://172.17.0.1:30555/")


def test_without_icc_containers_reach_the_machine_and_not_each_other(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, "icc = false") as world:
        address = serve(world, "web", 30555)
        world.start("peer")
        assert not reaches(world, "peer", f"http://{address}/", seconds=2)
        assert not reaches(world, "peer", "http://172.17.0.1:30555/", seconds=2)
        machine.run("curl", "-sS", "-o", "/dev/null", "http://127.0.0.1:30555/")
        machine.run("curl", "-sS", "-o", "/dev/null", f"http://{address}/")
        world.inside("peer", "busybox", "ping", "-c", "1", "-W", "60", "172.17.0.1")
        agent = world.agent
        agent.end()
        agent.config.write_text(agent.config.read_text().replace("icc = false", "icc = true"))
        agent.start()
        for name in ("web", "peer"):
            agent.cm("stop", "-t", "1s", "-f", name)
        address = serve_again(world, "web")
        agent.cm("start", "peer")
        assert reaches(world, "peer", f"http://{address}/")


def serve_again(world: World, name: str) -> str:
    world.agent.cm("start", name)
    address = world.address(name)
    assert world.machine.fetch(f"http://{address}/name") == f"{name}-host\n"
    return address


@contextlib.contextmanager
def neighbour(machine: Machine) -> Iterator[Machine]:
    """Another machine, 10.99.0.2, that knows the way to 10.99.0.1 only."""
    with private_network() as other:
        machine.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", other.name)
        machine.run("ip", "address", "add", "10.99.0.1/24", "dev", "out0")
        machine.run("ip", "link", "set", "out0", "up")
        other.run("ip", "address", "add", "10.99.0.2/24", "dev", "out1")
        other.run("ip", "link", "set", "out1", "up")
        yield other


def seen_as(world: World, other: Machine, name: str, seconds: int = 60) -> str:
    """The address under which a container comes to the neighbour; empty if it gets no answer within so many *seconds*."""
    with subprocess.Popen([*other.inside, sys.executable, "-c", TELL], stdout=subprocess.PIPE) as server:
        assert server.stdout
        server.stdout.readline()
        command = ("curl", "-sS", "-m", str(seconds), "--noproxy", "*", "http://10.99.0.2/")
        done = world.inside(name, *command, check=False)
        server.kill()
    return done.stdout


def test_what_leaves_the_machine_is_masqueraded(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    with neighbour(machine) as other, configured(tmp_path, containerd, machine, "") as world:
        world.start("one")
        assert seen_as(world, other, "one") == "10.99.0.1"
        assert machine.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"


def test_without_ip_masq_containers_go_out_under_their_own_address(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with neighbour(machine) as other, configured(tmp_path, containerd, machine, "ip_masq = false") as world:
        address = world.start("one")
        assert seen_as(world, other, "one", seconds=2) == ""
        other.run("ip", "route", "add", "172.17.0.0/16", "via", "10.99.0.1")
        assert seen_as(world, other, "one") == address


def test_without_ip_forward_the_machine_does_not_forward(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    with (
        neighbour(machine) as other,
        configured(tmp_path, containerd, machine, "ip_forward = false") as world,
    ):
        world.start("one", port_mappings=[port(30555)])
        assert seen_as(world, other, "one", seconds=2) == ""
        assert machine.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"


def test_without_ip_tables_there_are_no_rules_and_no_published_ports(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, "ip_tables = false") as world:
        address = serve(world, "web")
        world.start("peer")
        assert reaches(world, "peer", f"http://{address}/")
        assert "CNI" not in machine.run("iptables-save").stdout
        done = world.try_create("refused", port_mappings=[port(30555)])
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "network.default_bridge.ip_tables is false" in done.stderr


# ── machines that cannot, or must not ──


def assert_only_host_mode(world: World, said: str) -> None:
    done = world.try_create("bridged")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr
    world.agent.run_container(IMAGE, "/bin/true", name="hosted")
    assert world.machine.interfaces() == []


def test_bridge_containers_without_plugins_are_refused(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    directories = f'cni_bin_dirs = ["{tmp_path}/none"]'
    with configured(tmp_path, containerd, machine, "", directories) as world:
        said = f"CNI plugins bridge, host-local, firewall, which are not in {tmp_path}/none"
        assert_only_host_mode(world, said)


def test_one_missing_plugin_is_named_when_it_is_needed(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    for name in ("bridge", "host-local", "firewall"):
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / name).symlink_to(f"{PLUGINS}/{name}")
    directories = f'cni_bin_dirs = ["{tmp_path}/none", "{tmp_path}/some"]'
    with configured(tmp_path, containerd, machine, "", directories) as world:
        world.start("one")
        done = world.try_create("web", port_mappings=[port(30555)])
        assert "needs the CNI plugins portmap, which are not in" in done.stderr
        world.agent.end()
        (tmp_path / "some" / "bridge").unlink()
        world.agent.start()
        assert world.agent.state("one")["running"]
        world.agent.cm("stop", "one")
        assert "cannot remove its network" in world.agent.text()
        assert world.agent.call("start", "one").returncode == 1
        (tmp_path / "some" / "bridge").symlink_to(f"{PLUGINS}/bridge")
        world.agent.cm("start", "one")


def test_a_bridge_that_is_switched_off_leaves_host_mode(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine
) -> None:
    with configured(tmp_path, containerd, machine, "disable = true") as world:
        assert_only_host_mode(world, "network mode bridge is disabled (network.default_bridge.disable")


@pytest.mark.parametrize("broken", ["bridge", "host-local", "portmap", "firewall"])
def test_a_plugin_that_fails_is_quoted_and_nothing_is_left(
    tmp_path: Path, containerd: ContainerdServer, machine: Machine, broken: str
) -> None:
    directory = tmp_path / "cni"
    directory.mkdir()
    for name in ("bridge", "host-local", "portmap", "firewall"):
        (directory / name).symlink_to(f"{PLUGINS}/{name}")
    answer = """{"cniVersion": "0.4.0", "code": 99, "msg": "the moon is full"}"""
    (directory / broken).unlink()
    (directory / broken).write_text(f"#!/bin/sh\nif [ $CNI_COMMAND = DEL ]; then exec {PLUGINS}/{broken}; fi\necho '{answer}'\nexit 1\n")  # fmt: skip
    (directory / broken).chmod(0o755)
    with configured(tmp_path, containerd, machine, "", f'cni_bin_dirs = ["{directory}"]') as world:
        world.create("web", port_mappings=[port(30555)])
        done = world.agent.call("start", "web")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "CNI plugin" in done.stderr
        assert "the moon is full" in done.stderr
        world.assert_nothing_left()
