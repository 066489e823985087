# SPDX-License-Identifier: Apache-2.0
"""Archives of any content: what can be read is read, the rest is one line."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycm.containerd.image_format import Descriptor
from pycm.errors import PycmError
from pycm.registry import archive
from pycm.registry.archive import Layout
from pycm.registry.preload import MOST_ARCHIVES, archives

BLOB = b"blob" * 100
DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()
HERE = Descriptor(DIGEST, len(BLOB))


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def files() -> dict[str, bytes]:
    return {"./index.json": b"{}", f"blobs/sha256/{DIGEST[7:]}": BLOB}


def content(layout: Layout, offset: int) -> bytes:
    reader = layout.open(HERE, offset)
    found = b""
    while data := reader.read(7):
        found += data
    reader.close()
    return found


def test_blobs_are_read_from_any_offset_in_archive_and_directory(tmp_path: Path) -> None:
    directory = tmp_path / "layout"
    for name, data in files().items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    for layout in (Layout(str(tar(tmp_path / "a.tar", files()))), Layout(str(directory))):
        assert layout.index() == b"{}"
        assert [content(layout, offset) for offset in (0, 5, len(BLOB))] == [BLOB, BLOB[5:], b""]
        assert layout.document(HERE) == BLOB
        for wrong in (
            Descriptor(DIGEST, 1),
            Descriptor("sha256:" + "0" * 64, 1),
            Descriptor("sha256:../x", 1),
        ):
            with pytest.raises(PycmError):
                layout.open(wrong, 0)


def test_what_is_no_regular_file_is_not_opened_or_waited_for(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    os.mkfifo(tmp_path / "blobs" / "sha256" / DIGEST[7:])
    (tmp_path / "index.json").symlink_to("/dev/zero")
    with pytest.raises(PycmError, match="no regular file"):
        Layout(str(tmp_path)).open(HERE, 0)
    with pytest.raises(PycmError, match="no regular file"):
        Layout(str(tmp_path)).index()


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", files())
    monkeypatch.setattr(archive, "MOST_MEMBERS", 1)
    with pytest.raises(PycmError, match="more than 1 files"):
        Layout(str(path))
    for number in range(MOST_ARCHIVES):
        (tmp_path / f"b{number}.tar").touch()
    with pytest.raises(PycmError, match=f"{MOST_ARCHIVES + 1} archives"):
        archives(str(tmp_path))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_bytes_are_an_archive_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    path = tar(tmp_path / "a.tar", files())
    spoilt = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))]))
    said = ""
    try:
        layout = Layout(str(path))
        layout.index()
        content(layout, 3)
    except PycmError as error:
        said = str(error)
    assert "\n" not in said
