# SPDX-License-Identifier: Apache-2.0
"""What the bridge decides, with a machine that is only told of; on a real one it is seen to in tests/integration."""

from __future__ import annotations

import os
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from pycm.config.types import DefaultBridge, Network
from pycm.errors import ConflictError, InvalidInputError
from pycm.model.container import Container, HostConfig, PortMapping
from pycm.network import machine
from pycm.network.bridge import BridgeNetwork
from pycm.network.conf import Taken
from pycm.network.files import ContainerFiles
from pycm.network.plugins import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

ETH0 = Taken(IPv4Network("10.77.3.7/32"), "interface eth0")


class Machine:
    """In the place of `pycm.network.machine`: what it has, and what was made of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: IPv4Interface | None = None
        self.others = [ETH0]
        self.made: list[tuple[str, str, int]] = []
        self.forwarding = False
        monkeypatch.setattr(machine, "interface_address", lambda _name: self.current)
        monkeypatch.setattr(machine, "taken", lambda _bridge: list(self.others))
        monkeypatch.setattr(machine, "check_name", lambda _name: None)
        monkeypatch.setattr(machine, "ensure_bridge", self._ensure)
        monkeypatch.setattr(machine, "forward", self._forward)

    def _ensure(self, name: str, address: IPv4Interface, mtu: int) -> None:
        self.made.append((name, str(address), mtu))
        self.current = address

    def _forward(self) -> None:
        self.forwarding = True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def bridge(directory: Path, **options: object) -> BridgeNetwork:
    etc = directory / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "resolv.conf").write_text("nameserver 172.17.0.53\nnameserver 127.0.0.1\n")
    network = Network(
        exec_root_dir=str(directory / "run"),
        cni_bin_dirs=("/usr/lib/cni",),
        default_bridge=DefaultBridge(**{"ip_tables": False, **options}),  # type: ignore[arg-type]
    )
    home = str(directory / "home")
    return BridgeNetwork(home, network, ContainerFiles(home), str(etc))


def container(**host: object) -> Container:
    return Container(id="c1", host_config=HostConfig(network_mode="bridge", **host))  # type: ignore[arg-type]


async def test_the_first_free_range_hides_no_name_server(tmp_path: Path, told: Machine) -> None:
    network = bridge(tmp_path, mtu=1400)
    await network.prepare()
    await network._set_up()
    assert told.made == [("kanto-cm0", "172.18.0.1/16", 1400)]
    assert told.forwarding


async def test_an_address_that_was_asked_for_may_be_that_of_a_name_servers_network(
    tmp_path: Path, told: Machine
) -> None:
    network = bridge(tmp_path, ip4="172.17.0.53/16", ip_forward=False)
    await network.prepare()
    await network._set_up()
    assert told.made == [("kanto-cm0", "172.17.0.53/16", 1500)]
    assert not told.forwarding


async def test_a_network_that_is_taken_is_an_error_of_bridge_containers_until_it_is_free(
    tmp_path: Path, told: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    network = bridge(tmp_path, ip4="10.77.3.1/24")
    await network.prepare()
    text = "10.77.3.1/24 overlaps 10.77.3.7/32 of interface eth0"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert text in caplog.text
    assert "has changed. Choose another network.)" in caplog.text
    with pytest.raises(ConflictError, match=text):
        await network._set_up()
    assert told.made == []
    told.others = [Taken(IPv4Network("10.77.0.0/16"), "interface eth0")]
    await network._set_up()
    assert told.made == [("kanto-cm0", "10.77.3.1/24", 1500)]


@pytest.mark.parametrize("options", [{"disable": True}, {"current": IPv4Interface("10.77.3.1/24")}])
async def test_prepare_has_nothing_to_tell(
    tmp_path: Path, told: Machine, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    told.current = options.pop("current", None)
    await bridge(tmp_path, ip4="10.77.3.1/24", **options).prepare()
    assert (told.made, caplog.text) == ([], "")


async def test_prepare_survives_a_machine_that_cannot_be_looked_at(
    tmp_path: Path, told: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_name: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(machine, "check_name", failing)
    await bridge(tmp_path).prepare()
    assert "bridge network: unusable: [Errno 1] Operation not permitted" in caplog.text


async def test_what_a_container_asks_for_is_checked_before_anything_is_made(
    tmp_path: Path, told: Machine
) -> None:
    mapping = PortMapping(proto="tcp", container_port=80, host_ip="", host_port=30555, host_port_end=30555)
    with pytest.raises(ConflictError, match="network mode bridge is disabled"):
        bridge(tmp_path, disable=True).check(container())
    with pytest.raises(ConflictError, match="ip_tables is false"):
        bridge(tmp_path).check(container(port_mappings=(mapping,)))
    with pytest.raises(
        InvalidInputError, match="host_ip must be localhost or an IPv4 address of this machine, got 'here'"
    ):
        bridge(tmp_path, ip_tables=True).check(container(port_mappings=(PortMapping(host_ip="here"),)))
    assert told.made == []


async def test_a_peers_file_that_cannot_be_written_keeps_nobody_from_starting(
    tmp_path: Path, told: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a tmpfs that the container has filled: a part of it is written, and what was there is written back."""
    network = bridge(tmp_path)
    file = tmp_path / "hosts"
    file.write_text("old")
    peer = Sandbox("p", "/ns", (), connected=True, address="172.17.0.2", extra_hosts=("a:container_b",))
    network._records.sandboxes["b"] = Sandbox(
        "b", "/ns", (), connected=True, address="172.17.0.3", host_name="b"
    )
    network._records.sandboxes["p"] = peer._replace(hosts_path=str(file))
    network._records.sandboxes["q"] = peer._replace(id="q", hosts_path=str(tmp_path / "none"))
    write = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda descriptor, content, offset: write(descriptor, content[:5], offset)
    )
    await network._refresh()
    assert file.read_text() == "old"
    assert f"container p: cannot update {file}: No space left on device" in caplog.text
    assert f"container q: cannot update {tmp_path}/none: No such file or directory" in caplog.text


async def test_to_disconnect_what_was_never_connected_is_nothing(tmp_path: Path, told: Machine) -> None:
    network = bridge(tmp_path)
    await network.disconnect("nobody")
    await network.clear(())
    assert not (tmp_path / "run").exists()
