# SPDX-License-Identifier: Apache-2.0
"""Images that a device brings along: imported once at the start, whole or not at all, whatever the archives look like."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from images import Image, base_layer, layer, write_archive

from pycm.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

BASE = base_layer()


@pytest.fixture
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd(gc_startup="100ms") as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "preload"
    path.mkdir()
    return path


@pytest.fixture
def agent(tmp_path: Path, containerd: ContainerdServer, place: Path) -> Iterator[AgentProcess]:
    """Not started yet."""
    process = AgentProcess(tmp_path, containerd, containers=f'preload_dir = "{place}"')
    try:
        yield process
    finally:
        process.__exit__()


def image(name: str, note: str) -> Image:
    return Image(f"offline.test/{name}:1", layers=[BASE, layer({"note": f"{note}\n".encode()})])


def names(agent: AgentProcess) -> list[str]:
    done = agent.pycm("image", "list", "--format", "json")
    return [found["reference"] for found in json.loads(done.stdout)]


def wait_for(agent: AgentProcess, *wanted: str) -> None:
    wait_until(
        lambda: set(wanted) <= set(names(agent)), 30, f"images {wanted} are imported: {agent.text()[-2000:]}"
    )


def unpacked(archive: Path, directory: Path) -> None:
    """The archive as a layout directory."""
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    archive.unlink()


def test_archives_and_layouts_are_imported_once_and_share_their_layers(
    agent: AgentProcess, containerd: ContainerdServer, place: Path
) -> None:
    write_archive(place / "a.tar", image("a", "from a"))
    unpacked(write_archive(place / "b.tar", image("b", "from b")), place / "layout")
    (place / "README").write_text("no archive")
    agent.start()
    # a creation does not go to the network while its image may be on its way
    container_id = agent.run_container("offline.test/b:1", "cat", "/note")
    agent.wait_for(container_id, exited=True, exit_code=0)
    assert agent.logged(container_id) == ["from b"]
    assert names(agent) == ["offline.test/a:1", "offline.test/b:1"]
    sizes = [line.split()[1] for line in containerd.ctr("content", "ls").splitlines()[1:]]
    assert sum(size.endswith("MB") for size in sizes) == 1  # the base layer
    assert agent.pycm("image", "remove", "offline.test/a:1").returncode == 0

    agent.end()
    write_archive(place / "c.tar", image("c", "from c"))
    agent.start()
    wait_for(agent, "offline.test/c:1")
    assert "offline.test/a:1" not in names(agent)  # imported once: what was removed stays away

    agent.end()
    write_archive(place / "a.tar", image("a", "a newer a"))
    agent.start()
    wait_for(agent, "offline.test/a:1")
    newer = agent.run_container("offline.test/a:1", "cat", "/note")
    agent.wait_for(newer, exited=True, exit_code=0)
    assert agent.logged(newer) == ["a newer a"]


def test_a_killed_import_is_done_again(
    agent: AgentProcess, place: Path, containerd: ContainerdServer
) -> None:
    write_archive(place / "a.tar", image("a", "from a"))
    agent.start(
        PYCM_FAIL_POINT="registry.preload-fetched"
    )  # the worker has it from the agent, which has no such point
    wait_until(lambda: "pull worker was killed" in agent.text(), 30, "the worker dies")
    assert containerd.ctr("images", "ls", "-q") == ""
    agent.end()
    agent.start()
    wait_for(agent, "offline.test/a:1")


def cut(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


def without_blob(archive: Path) -> None:
    """The biggest blob is missing."""
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        kept = [(m, file.read() if file else b"") for m, file in members]
    big = max(kept, key=lambda item: item[0].size)[0].name
    with tarfile.open(archive, "w") as tar:
        for member, data in kept:
            if member.name != big:
                tar.addfile(member, io.BytesIO(data))


def damaged_blob(archive: Path) -> None:
    """One bit of the base layer is another."""
    data = bytearray(archive.read_bytes())
    data[data.index(b"\x7fELF") + 5000] ^= 1
    archive.write_bytes(bytes(data))


def text(archive: Path) -> None:
    archive.write_text("this is no archive")


def compressed(archive: Path) -> None:
    import gzip

    archive.write_bytes(gzip.compress(archive.read_bytes(), 1))


def nameless(archive: Path) -> None:
    archive.write_bytes(
        archive.read_bytes().replace(b"io.containerd.image.name", b"xx.containerd.image.name")
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "is truncated"),
        (without_blob, "blobs/sha256/"),
        (damaged_blob, "has other content under the digest of sha256:"),
        (text, "not a tar archive"),
        (compressed, "compressed"),
        (nameless, "gives no image a full name"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_spoilt_archive_is_one_clear_error_and_no_image(
    agent: AgentProcess, place: Path, containerd: ContainerdServer, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(write_archive(place / "bad.tar", image("bad", "never seen")))
    write_archive(place / "good.tar", image("good", "good"))
    agent.start()
    wait_for(agent, "offline.test/good:1")
    assert names(agent) == ["offline.test/good:1"]
    wait_until(lambda: "level=error" in agent.text(), 30, "the import has ended and the archive is named")
    complaints = [line for line in agent.text().splitlines() if "level=error" in line]
    assert len(complaints) == 1, complaints
    assert words in complaints[0]
    assert shorten(str(place / "bad.tar")) in complaints[0]
    container_id = agent.run_container("offline.test/good:1", "true")
    agent.wait_for(container_id, exited=True, exit_code=0)
    assert ".pull." not in containerd.ctr("leases", "ls")


def test_a_preload_directory_may_be_a_layout_itself_or_missing(agent: AgentProcess, place: Path) -> None:
    shutil.rmtree(place)
    agent.start()
    assert names(agent) == []
    agent.end()
    place.mkdir()
    unpacked(write_archive(place.parent / "a.tar", image("a", "from a")), place)
    agent.start()
    wait_for(agent, "offline.test/a:1")
    assert "level=error" not in agent.text()
