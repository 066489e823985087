# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pycm.errors import OperationFailedError
from pycm.network.conf import Published
from pycm.network.plugins import Records, Sandbox, find_address

if TYPE_CHECKING:
    from pathlib import Path

FULL = Sandbox(
    id="c1",
    namespace="/run/netns/0123456789ab",
    chain=({"type": "bridge", "ipam": {"ranges": [[{"subnet": "172.17.0.0/16"}]]}}, {"type": "firewall"}),
    published=(Published("tcp", "127.0.0.1", 30555, 80), Published("udp", "", 53, 53)),
    result={"ips": [{"address": "172.17.0.2/16"}]},
    connected=True,
    address="172.17.0.2",
    host_name="c1-host",
    domain_name="c1-domain",
    extra_hosts=("db:container_db-host",),
    hosts_path="/var/lib/c1/hosts",
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "network" / "sandboxes"


def loaded(directory: Path) -> tuple[dict[str, Sandbox], list[str]]:
    records = Records(str(directory))
    damaged = records.load()
    return records.sandboxes, damaged


@pytest.mark.parametrize("sandbox", [FULL, Sandbox("c2", "/run/netns/c2", ())])
def test_the_next_agent_reads_what_was_recorded(directory: Path, sandbox: Sandbox) -> None:
    records = Records(str(directory))
    records.save(sandbox)
    assert records.sandboxes == {sandbox.id: sandbox}
    assert loaded(directory) == ({sandbox.id: sandbox}, [])
    assert (directory / f"{sandbox.id}.json").stat().st_mode & 0o777 == 0o600
    records.delete(sandbox.id)
    records.delete(sandbox.id)
    assert (records.sandboxes, loaded(directory)) == ({}, ({}, []))


def test_where_nothing_was_recorded_there_is_nothing(directory: Path) -> None:
    assert loaded(directory) == ({}, [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"id": "c1"}',
        b'{"id": "../c2", "namespace": "/n", "chain": [], "published": [], "extra_hosts": []}',
        b'{"id": "c1", "namespace": "/n", "chain": [], "published": [{"proto": "tcp"}], "extra_hosts": []}',
        b'{"id": "c1", "namespace": "/n", "chain": [], "published": [], "extra_hosts": [], "of the future": 1}',
        b" " * (256 * 1024) + b"{}",
    ],
)
def test_a_damaged_record_is_told_and_the_others_are_read(
    directory: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    Records(str(directory)).save(Sandbox("c2", "/n", ()))
    (directory / "c1.json").write_bytes(content)
    sandboxes, damaged = loaded(directory)
    assert (list(sandboxes), damaged) == (["c2"], ["c1"])
    assert "container c1: damaged network record" in caplog.text


def test_what_a_kill_left_of_a_write_is_removed(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "c1.json.tmp").write_text("{")
    (directory / "README").write_text("not ours")
    assert loaded(directory) == ({}, [])
    assert [path.name for path in directory.iterdir()] == ["README"]


def test_what_cannot_be_written_or_removed_is_named(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "network").write_text("a file")
    records = Records(str(directory))
    with pytest.raises(OperationFailedError, match=r"cannot record the network of container c1: .*network"):
        records.save(FULL)
    assert records.sandboxes == {}
    with pytest.raises(OperationFailedError, match=r"cannot remove .*c1\.json: Not a directory"):
        records.delete("c1")


def test_the_address_of_a_container_is_found_where_the_plugin_keeps_it(directory: Path) -> None:
    assert find_address(str(directory), "c1") == ""
    directory.mkdir(parents=True)
    for name, content in {
        "172.17.0.2": "c11\r\neth0",
        "172.17.0.3": "c1\r\neth0",
        "lock": "c1",
        "172.17.0.9": "",
    }.items():
        (directory / name).write_text(content)
    (directory / "172.17.0.1").mkdir()
    assert find_address(str(directory), "c1") == "172.17.0.3"
    assert find_address(str(directory), "c2") == ""


def test_the_record_of_the_largest_description_is_read_again(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    names = tuple(f"{'ü' * 125}{number:04}:container_{'é' * 100}" for number in range(1024))
    published = tuple(Published("tcp", "127.0.0.1", port, port) for port in range(256))
    records.save(Sandbox("c1", "/ns", (), published, extra_hosts=names))
    again = Records(str(tmp_path))
    assert again.load() == []
    assert again.sandboxes["c1"].extra_hosts == names


def test_records_count_a_fifo_as_damaged_and_look_for_no_address_in_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c1.json")
    os.mkfifo(tmp_path / "172.17.0.2")
    (tmp_path / "172.17.0.3").write_text("c1\r\neth0")
    assert Records(str(tmp_path)).load() == ["c1"]
    assert find_address(str(tmp_path), "c1") == "172.17.0.3"
