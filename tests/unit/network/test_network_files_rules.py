# SPDX-License-Identifier: Apache-2.0
import socket
from pathlib import Path

import pytest

from pycm.config.types import Network
from pycm.errors import InvalidInputError, OperationFailedError
from pycm.model.container import Container, HostConfig
from pycm.network import files
from pycm.network.files import ContainerFiles, HostNetwork
from pycm.network.modes import Networks
from pycm.storage import mounts


@pytest.fixture
def network(tmp_path: Path) -> HostNetwork:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "hosts").write_text("127.0.0.1 localhost here\n")
    (etc / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    return HostNetwork(ContainerFiles(str(tmp_path / "home")), str(etc))


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
        await HostNetwork(ContainerFiles(str(tmp_path / "home"))).connect(host_container())


async def test_an_agent_that_may_not_mount_gives_containers_the_files_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one without bridge, whose capabilities a drop-in has taken away."""

    def refused(name: str, *_: object) -> None:
        raise PermissionError(1, "Operation not permitted", name)

    monkeypatch.setattr(mounts, "system_call", refused)
    made = ContainerFiles(str(tmp_path / "home"), str(tmp_path / "run"))
    made.prepare()
    for _ in range(2):
        connected = await HostNetwork(made).connect(host_container())
        assert Path(connected.hostname_path).read_text() == socket.gethostname() + "\n"
        assert made.others(()) == set()
    (line,) = caplog.messages
    assert line.startswith("network files: cannot mount a tmpfs: Operation not permitted")


async def test_files_lie_on_the_disk_where_the_directory_of_mounts_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    made = ContainerFiles(str(tmp_path / "home"), str(tmp_path / "file" / "run"))
    made.prepare()
    connected = await HostNetwork(made).connect(host_container())
    assert Path(connected.hostname_path).read_text() == socket.gethostname() + "\n"
    assert "cannot mount a tmpfs: Not a directory" in caplog.text


async def test_a_mount_that_fails_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: str, *_: object) -> None:
        raise OSError(22 if name == "umount2" else 28, "No space left on device")

    monkeypatch.setattr(files, "see_as_init", lambda _directory: None)
    monkeypatch.setattr(mounts, "system_call", failing)
    made = ContainerFiles(str(tmp_path / "home"), str(tmp_path / "run"))
    with pytest.raises(OperationFailedError, match=r"cannot write .*c1: No space left on device"):
        await HostNetwork(made).connect(host_container())
    assert list((tmp_path / "run" / "files").iterdir()) == []


def test_what_earlier_agents_have_mounted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a home"
    (home / "containers").mkdir(parents=True)
    table = tmp_path / "mountinfo"
    place = str(home / "containers").replace(" ", "\\040")
    lines = [f"{place}/c1/hosts", f"{place}/c2/other", f"{place}2/c3/hosts", "/containers/c4/hosts"]
    table.write_text("".join(f"36 35 0:30 / {line} rw - tmpfs tmpfs rw\n" for line in lines))
    monkeypatch.setattr(mounts, "_TABLES", (str(tmp_path / "none"), str(table)))
    made = ContainerFiles(str(home), str(tmp_path / "run"))
    made.prepare()
    assert made.others(()) == {"c1"}
    assert made.others({"c1"}) == set()


async def test_files_that_cannot_be_unmounted_are_named_and_stay_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 0:30 / {tmp_path}/home/containers/c1/hosts rw - tmpfs tmpfs rw\n")
    failing = [True]

    def call(_name: str, path: bytes, *_: object) -> None:
        raise OSError(16 if failing and path.endswith(b"hosts") else 22, "Device or resource busy")

    monkeypatch.setattr(mounts, "_TABLES", (str(table),))
    monkeypatch.setattr(mounts, "system_call", call)
    monkeypatch.setattr(files, "see_as_init", lambda _directory: None)
    network = Networks(str(tmp_path / "home"), Network(exec_root_dir=str(tmp_path / "run")))
    await network.prepare()
    await network.disconnect("c1")
    await network.clear({"c1"})
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "container c1: cannot unmount its network files: Device or resource busy" in caplog.text
    failing.clear()
    await network.clear(())
    assert network._files.others(()) == set()
    assert len(caplog.records) == 1
