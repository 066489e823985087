# SPDX-License-Identifier: Apache-2.0
import errno
import json
import logging
import os
import stat
from pathlib import Path

import pytest

from pycm.errors import InvalidInputError, OperationFailedError
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    EndpointSettings,
    HostConfig,
    Image,
    NetworkSettings,
)
from pycm.model.frozen import replace
from pycm.model.records import stored
from pycm.storage import files
from pycm.storage.files import write_atomic
from pycm.storage.store import ContainerStore, DiskFullError, identifier


@pytest.fixture
def store(tmp_path: Path) -> ContainerStore:
    made = ContainerStore(str(tmp_path / "home"))
    made.prepare()
    return made


def container(identifier: str = "c1") -> Container:
    return Container(id=identifier, name=identifier, image=Image(name="i:1"))


def file_of(store: ContainerStore, identifier: str) -> Path:
    return Path(store.directory(identifier)) / "config.json"


def test_what_is_saved_is_loaded(store: ContainerStore) -> None:
    store.save(container())
    store.save(container("c2"))
    assert store.load() == [container(), container("c2")]
    assert oct(file_of(store, "c1").stat().st_mode & 0o777) == "0o644"
    assert oct(file_of(store, "c1").parent.stat().st_mode & 0o777) == "0o711"


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"{", b"[]", b'{"container_id": 5}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_damaged_file_is_set_aside_and_named_and_the_rest_is_loaded(
    store: ContainerStore, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(container("good"))
    store.save(container("bad"))
    file_of(store, "bad").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert store.load() == [container("good")]
    assert str(file_of(store, "bad")) in caplog.text
    assert file_of(store, "bad").with_suffix(".json.damaged").read_bytes() == content
    assert len(caplog.records) == 1


def test_the_record_of_a_container_on_the_bridge_names_no_sandbox_on_disk(store: ContainerStore) -> None:
    """Kanto's agent would take it for a live one, and would not make its bridge."""
    settings = {
        name: NetworkSettings(
            networks={name: EndpointSettings()}, sandbox_id=identifier("sandbox", name), sandbox_key="/ns"
        )
        for name in ("bridge", "host")
    }
    connected = [replace(container(name), network_settings=settings[name]) for name in ("bridge", "host")]
    stopped = container("stopped")
    for record in (*connected, stopped):
        store.save(record)
    written = {
        name: json.loads(file_of(store, name).read_bytes())["network_settings"] for name in ("bridge", "host")
    }
    assert "sandbox_id" not in written["bridge"]
    assert written["bridge"]["sandbox_key"] == "/ns"
    assert written["host"]["sandbox_id"] == identifier("sandbox", "host")
    assert store.load() == [*connected, stopped], "as before, for who asks"


def test_a_sandbox_that_a_record_names_is_shown_until_the_container_is_stored_again(
    store: ContainerStore,
) -> None:
    settings = NetworkSettings(networks={"bridge": EndpointSettings()}, sandbox_id="original")
    kanto = replace(container(), network_settings=settings)
    store.save(kanto)
    file_of(store, "c1").write_bytes(stored(kanto))
    assert store.load() == [kanto]
    store.save(kanto)
    assert b"original" not in file_of(store, "c1").read_bytes()


def test_a_record_beyond_a_bound_of_new_ones_is_loaded_with_a_warning(
    store: ContainerStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An upgrade loses no container, not even one with 4 MiB of characters that JSON escapes."""
    names = tuple(f"host{number}:10.0.0.1" for number in range(1025))
    env = ("A=" + "<" * (4 * 1024 * 1024),)
    config, host = ContainerConfiguration(env=env), HostConfig(extra_hosts=names)
    large = Container(id="large", image=Image(name="i:1"), config=config, host_config=host)
    for record in (container("c1"), large):
        store.save(record)
    assert store.load() == [container("c1"), large]
    (line,) = caplog.messages
    assert line == (
        "stored container large: config.env[0] has 4194306 bytes; at most 131071 are allowed for a new container"
        " (using it as it is)"
    )


def test_a_record_that_claims_another_id_is_damaged(store: ContainerStore) -> None:
    store.save(container("real"))
    data = file_of(store, "real").read_bytes()
    file_of(store, "real").write_bytes(data.replace(b'"container_id":"real"', b'"container_id":"../../x"'))
    assert store.load() == []


def test_foreign_directories_are_left_alone(store: ContainerStore) -> None:
    other = Path(store.directory("other"))
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert store.load() == []
    assert (other / "notes.txt").exists()


@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".."])
def test_no_id_leaves_the_directory(store: ContainerStore, bad: str) -> None:
    with pytest.raises(InvalidInputError):
        store.directory(bad)
    with pytest.raises(InvalidInputError):
        store.delete(bad)


def test_delete_takes_logs_and_all_and_twice_is_no_error(store: ContainerStore) -> None:
    store.save(container())
    directory = Path(store.directory("c1"))
    (directory / "json.log").write_text("x")
    (directory / "sub").mkdir()
    store.delete("c1")
    assert not directory.exists()
    store.delete("c1")


def test_delete_does_not_follow_a_link(store: ContainerStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    os.symlink(precious, store.directory("c1"))
    store.delete("c1")
    assert (precious / "file").exists()


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    store: ContainerStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store.save(container())
    before = file_of(store, "c1").read_bytes()

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, full)
        with pytest.raises(
            OperationFailedError, match=r"cannot store container c1 in .*: No space left on device"
        ):
            store.save(Container(id="c1", name="other", image=Image(name="i:1")))
    assert file_of(store, "c1").read_bytes() == before
    assert os.listdir(store.directory("c1")) == ["config.json"]
    store.save(Container(id="c1", name="other", image=Image(name="i:1")))
    assert store.load()[0].name == "other"


def test_the_data_is_synced_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(files.os, "fsync", lambda fd: (order.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(files.os, "rename", lambda a, b: (order.append("rename"), real_rename(a, b))[1])
    write_atomic(str(tmp_path / "f"), b"x", 0o600)
    assert order == ["fsync", "rename", "fsync"]
    assert oct((tmp_path / "f").stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("remains", [(), ("config.json.tmp",)])
def test_what_a_cut_left_of_a_container_without_a_record_is_swept(
    store: ContainerStore, remains: tuple[str, ...]
) -> None:
    directory = Path(store.directory("c1"))
    directory.mkdir()
    for name in remains:
        (directory / name).write_bytes(b"{")
    assert store.load() == []
    assert not directory.exists()


def test_a_number_that_python_does_not_read_is_damage(store: ContainerStore) -> None:
    store.save(container("good"))
    store.save(container("bad"))
    file_of(store, "bad").write_bytes(b'{"container_id": ' + b"1" * 5000 + b"}")
    assert store.load() == [container("good")]


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, False)]
)
def test_a_full_disk_is_told_from_other_faults(
    store: ContainerStore, monkeypatch: pytest.MonkeyPatch, number: int, full: bool
) -> None:
    def write(_descriptor: int, _data: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "write", write)
    with pytest.raises(OperationFailedError, match=os.strerror(number)) as caught:
        store.save(container())
    assert isinstance(caught.value, DiskFullError) == full


def test_directories_that_are_as_they_should_be_are_not_touched(
    store: ContainerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an agent can start on a disk that has become read-only."""

    def chmod(_path: str, _mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "chmod", chmod)
    store.prepare()


def test_a_directory_that_cannot_be_deleted_is_named_and_no_error(
    store: ContainerStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(container())

    def listdir(_path: str) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", listdir)
    store.delete("c1")
    assert [record.message for record in caplog.records] == [
        f"{store.directory('c1')}: cannot be removed: {os.strerror(errno.EIO)}"
    ]


def make_node(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device"])
def test_read_regular_refuses_all_else_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    make_node(path, kind)
    before = len(os.listdir("/proc/self/fd"))
    for work in (
        lambda: files.read_regular(str(path), 10),
        lambda: files.read_regular(str(path), 10, follow=True),
        lambda: files.open_regular(str(path), os.O_RDWR | os.O_CREAT),
        lambda: files.check_regular(str(path)),
    ):
        with pytest.raises(OSError) as error:  # noqa: PT011  ENXIO, EISDIR, ELOOP or EINVAL
            work()
        assert str(path) in str(error.value)
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_regular_follows_links_only_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert files.read_regular(str(tmp_path / "file"), 3) == b"con"
    assert files.read_regular(str(tmp_path / "link"), 30, follow=True) == b"content"
    files.check_regular(str(tmp_path / "link"))
    with pytest.raises(OSError, match="symbolic links"):
        files.read_regular(str(tmp_path / "link"), 30)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "left-over"])
def test_write_atomic_replaces_whatever_has_the_temporary_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if kind == "left-over":
        (tmp_path / "file.tmp").write_bytes(b"longer than the new content")
    else:
        make_node(tmp_path / "file.tmp", kind)
    write_atomic(str(path), b"new", 0o640)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_store_sets_a_special_file_in_place_of_a_record_aside(store: ContainerStore, kind: str) -> None:
    store.save(container())
    store.save(container("c2"))
    file_of(store, "c1").unlink()
    make_node(file_of(store, "c1"), kind)
    assert store.load() == [container("c2")]
    assert (file_of(store, "c1").parent / "config.json.damaged").lstat()
    store.save(container())
    assert store.load() == [container(), container("c2")]
