# SPDX-License-Identifier: Apache-2.0
import socket
from pathlib import Path

import pytest

from pycm.config.types import Network
from pycm.errors import InvalidInputError, OperationFailedError
from pycm.model.container import Container, HostConfig
from pycm.network import files
from pycm.network.files import HostNetwork
from pycm.network.modes import Networks


@pytest.fixture
def network(tmp_path: Path) -> HostNetwork:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "hosts").write_text("127.0.0.1 localhost here\n")
    (etc / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    return HostNetwork(str(tmp_path / "home"), str(etc))


def host_container(*extra: str) -> Container:
    return Container(id="c1", host_name="own", host_config=HostConfig(network_mode="host", extra_hosts=extra))


async def test_a_container_on_the_host_network_gets_the_machines_name_and_files(network: HostNetwork) -> None:
    connected = await network.connect(host_container())
    assert connected.host_name == socket.gethostname()
    assert Path(connected.hostname_path).read_text() == socket.gethostname() + "\n"
    assert Path(connected.hosts_path).read_text() == "127.0.0.1 localhost here\n"
    assert Path(connected.resolv_conf_path).read_text() == "nameserver 192.0.2.1\n"
    assert connected.network_settings is not None
    assert list(connected.network_settings.networks) == ["host"]


async def test_extra_hosts_stand_below_the_defaults(network: HostNetwork) -> None:
    connected = await network.connect(host_container("db:192.0.2.9", "six:2001:db8::1"))
    lines = Path(connected.hosts_path).read_text().splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-2:] == ["192.0.2.9\tdb", "2001:db8::1\tsix"]


async def test_names_of_containers_on_the_bridge_are_left_out_where_there_is_none(
    network: HostNetwork,
) -> None:
    connected = await network.connect(host_container("db:container_db-host", "x:192.0.2.9"))
    assert Path(connected.hosts_path).read_text().splitlines()[-1] == "192.0.2.9\tx"
    assert "container_db-host" not in Path(connected.hosts_path).read_text()


@pytest.mark.parametrize("mode", ["host", "bridge"])
def test_extra_hosts_that_are_no_lines_of_a_file_are_refused_in_both_modes(tmp_path: Path, mode: str) -> None:
    container = Container(id="c1", host_config=HostConfig(network_mode=mode, extra_hosts=("a:1\n2 b",)))
    with pytest.raises(InvalidInputError, match="is not of the form name:address"):
        Networks(str(tmp_path), Network()).check(container)


async def test_a_resolver_that_listens_on_the_host_only_is_replaced_by_the_servers_it_asks(
    network: HostNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    full = tmp_path / "full"
    monkeypatch.setattr(files, "_RESOLVED", str(full))
    connected = await network.connect(host_container())
    assert Path(connected.resolv_conf_path).read_text() == "nameserver 127.0.0.53\n"
    full.write_text("nameserver 192.0.2.7\n")
    await network.connect(host_container())
    assert Path(connected.resolv_conf_path).read_text() == "nameserver 192.0.2.7\n"


async def test_a_second_start_writes_nothing_new(network: HostNetwork) -> None:
    connected = await network.connect(host_container())
    before = Path(connected.hosts_path).stat().st_mtime_ns, Path(connected.hosts_path).stat().st_ino
    await network.connect(host_container())
    assert (Path(connected.hosts_path).stat().st_mtime_ns, Path(connected.hosts_path).stat().st_ino) == before


async def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(OperationFailedError, match=r"cannot write .*home"):
        await HostNetwork(str(tmp_path / "home")).connect(host_container())
