# SPDX-License-Identifier: Apache-2.0
"""Archives of any content: what can be read is read, the rest is one line."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycm.containerd.content import Marks
from pycm.containerd.image_format import Descriptor
from pycm.errors import PycmError
from pycm.registry import preload
from pycm.registry.job import LINE_LIMIT, Job, News
from pycm.registry.preload import MOST_ARCHIVES, Layout, list_archives

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
    with pytest.raises(PycmError, match="not a regular file"):
        Layout(str(tmp_path)).open(HERE, 0)
    with pytest.raises(PycmError, match="not a regular file"):
        Layout(str(tmp_path)).index()


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", files())
    monkeypatch.setattr(preload, "MOST_MEMBERS", 1)
    with pytest.raises(PycmError, match="more than 1 files"):
        Layout(str(path))
    for number in range(MOST_ARCHIVES):
        (tmp_path / f"b{number}.tar").touch()
    with pytest.raises(PycmError, match=f"{MOST_ARCHIVES + 1} archives"):
        list_archives(str(tmp_path))


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("form", FORMATS)
def test_layout_finds_files_as_tarfile_does(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a.tar"
    names = ["index.json", f"blobs/sha256/{DIGEST[7:]}", "./blobs/" + "p" * 80 + "/" + "n" * 60, "other/é"]
    if form != tarfile.USTAR_FORMAT:
        names += ["blobs/" + "l" * 180, "other/" + "x" * 3000]
    with tarfile.open(path, "w", format=form) as out:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = number * 511
            out.addfile(info, io.BytesIO(b"x" * info.size))
        for kind, name, target in (
            (tarfile.SYMTYPE, "blobs/link", "t" * 90),
            (tarfile.DIRTYPE, "blobs/d", ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            out.addfile(info)
    with tarfile.open(path) as read:
        expected = {
            member.name.removeprefix("./"): (member.offset_data, member.size)
            for member in read
            if member.isreg() and not member.name.startswith("other")
        }
    assert Layout(str(path))._members == expected


def header(name: bytes = b"f", size: int | bytes = 0, kind: bytes = b"0") -> bytes:
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    raw = name.ljust(100, b"\0") + b"0000644\0" * 3 + digits + b"0" * 12 + b" " * 8 + kind
    raw = raw.ljust(512, b"\0")
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def block(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def extended(size: int) -> bytes:
    """An extended header of *size* bytes that says nothing of interest."""
    record = b"%d k=" % size
    return header(b"x", size, b"x") + block(record + b"v" * (size - len(record) - 1) + b"\n")


INDEX_FILE = header(b"index.json", 2) + block(b"{}")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (extended(preload.HEADER_LIMIT) + INDEX_FILE, ""),
        (extended(preload.HEADER_LIMIT + 1) + INDEX_FILE, "a header of 65537 bytes"),
        (header(b"x", preload.HEADER_LIMIT + 1, b"L") + block(b"n" * 65537) + INDEX_FILE, "a header of 65537 bytes"),
        (header(b"x", 10**6, b"g") + bytes(10**6 + 448) + INDEX_FILE, ""),  # a global one is passed over
        (header(b"x", 1, b"x") + block(b"9" * 1), "not found"),
        (header(b"x", 20, b"x") + block(b"1 size=12345678901\n"), "invalid extended header"),
        (header(b"x", 20, b"x") + block(b"99 size=1234567890\n"), "invalid extended header"),
        (header(b"x", 11, b"x") + block(b"11 size=-1\n") + INDEX_FILE, "-1 bytes at offset"),
        (header(size=b"\xff" * 12), "invalid literal"),  # negative, in base 256
        (header(size=b"\x80" + b"\xff" * 11), "bytes at offset 512 of 512"),
        (header(size=b"\x80" + bytes(10) + b"\x01") + block(b"x") + INDEX_FILE, ""),
        (header(size=513) + block(b"x"), "513 bytes at offset 512 of 1024"),
        (header(size=512) + bytes(512) + INDEX_FILE, ""),
        (INDEX_FILE + b"cut", "truncated header"),
        (b"\x1f\x8b" + bytes(600), "invalid literal"),
        (b"", ""),
    ],
    ids=range(16),
)  # fmt: skip
def test_layout_reads_headers_within_bounds(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    if why:
        with pytest.raises(PycmError, match=f"is truncated, .*{why}"):
            Layout(str(path))
    elif data:
        assert Layout(str(path)).index() == b"{}"
    else:
        with pytest.raises(PycmError, match=r"index\.json"):
            Layout(str(path)).index()


def test_layout_counts_every_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "MOST_MEMBERS", 3)
    path = tmp_path / "a.tar"
    path.write_bytes(extended(100) * 2 + INDEX_FILE)
    assert Layout(str(path)).index() == b"{}"
    path.write_bytes(extended(100) * 3 + INDEX_FILE)
    with pytest.raises(PycmError, match="more than 3 files"):
        Layout(str(path))


def test_layout_keeps_only_names_of_blobs(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    longest = b"blobs/" + b"n" * (preload.NAME_LIMIT - 6)
    members = b"".join(
        header(b"x", len(name), b"L") + block(name) + header()
        for name in (longest, longest + b"n", b"elsewhere/" * 20)
    )
    path.write_bytes(members + INDEX_FILE)
    assert set(Layout(str(path))._members or ()) == {longest.decode(), "index.json"}


def test_report_of_preload_fits_one_line() -> None:
    assert preload._shorten_report(["a", "b"]) == ("a", "b")
    failed = ["é" * 500] * 200
    reported = preload._shorten_report(failed)
    assert 1 < len(reported) < 20
    assert reported[-1] == f"{200 - len(reported) + 1} more archives cannot be imported"
    names = ("r.test/x:" + "x" * (preload.REPORT - 50),)
    assert len(News("done", images=names, failed=reported).line()) < LINE_LIMIT


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


class Imports:
    """What `preload` calls, without containerd."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, noted: dict[str, str]) -> None:
        self.noted = noted
        self.images: list[list[str]] = []
        monkeypatch.setattr(preload, "Client", lambda *_: SimpleNamespace(close=lambda: None))
        monkeypatch.setattr(preload, "Marks", lambda *_: self)
        monkeypatch.setattr(preload, "_import", self.bring)
        monkeypatch.setattr(preload, "_shorten_report", tuple)

    async def read(self) -> "Imports":
        return self

    def get(self, name: str) -> str | None:
        return self.noted.get(name)

    async def add(self, name: str, value: str, among: list[str]) -> None:
        self.noted = {key: text for key, text in self.noted.items() if key in among}
        self.noted[name] = value

    async def bring(self, *arguments: Any) -> list[str]:
        self.images.append([name for name, _ in arguments[-1]])
        return self.images[-1]


def put_layout(path: Path, *names: str) -> None:
    path.mkdir()
    entries = [
        {"digest": DIGEST, "size": 1, "annotations": {"io.containerd.image.name": name}} for name in names
    ]
    (path / "index.json").write_text(json.dumps({"manifests": entries}))


JOB = Job("/s", "ns", "overlayfs", "lease")
SILENT: Any = SimpleNamespace(report=lambda *_: None)


async def test_preload_reports_no_more_than_a_line_holds_and_leaves_the_rest_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_layout(tmp_path / "a", "r.test/a:1", "r.test/a:2")
    put_layout(tmp_path / "b", "r.test/b:1")
    put_layout(tmp_path / "c", "not a name/x:1")
    imports = Imports(monkeypatch, {"gone": "mark"})
    job = JOB._replace(preload=str(tmp_path))
    monkeypatch.setattr(preload, "REPORT", len(json.dumps(["r.test/a:1", "r.test/a:2", "r.test/b:1"])) - 1)
    first = await preload.preload(job, SILENT)
    assert first.images == ("r.test/a:1", "r.test/a:2")
    assert [text.split(":")[0] for text in first.failed if "next start" in text] == [
        f"archive '{tmp_path}/b'"
    ]
    assert set(imports.noted) == {"a"}  # and no note of an archive that is gone
    second = await preload.preload(job, SILENT)
    assert second.images == ("r.test/b:1",)
    assert any("must begin with the registry's host" in text for text in (*first.failed, *second.failed))
    monkeypatch.setattr(preload, "REPORT", preload.REPORT + 1)
    imports.noted = {}
    assert len((await preload.preload(job, SILENT)).images) == 3


async def test_marks_forget_names_that_no_longer_count() -> None:
    written: list[dict[str, str]] = []

    class Leases:
        async def call(self, call: Any, request: Any) -> Any:
            if "Create" in call.name:
                written.append(dict(request.labels))
            lease = SimpleNamespace(labels=written[-1]) if written else None
            return SimpleNamespace(leases=[lease] if lease else [])

    marks = Marks(Leases(), "lease")  # type: ignore[arg-type]
    await marks.read()
    await marks.add("a", "1", ["a", "b"])
    await marks.add("b", "2", ["a", "b"])
    assert (await marks.read()).get("a") == "1"
    await marks.add("c", "3", ["b", "c"])
    found = await marks.read()
    assert [found.get(name) for name in "abc"] == [None, "2", "3"]
