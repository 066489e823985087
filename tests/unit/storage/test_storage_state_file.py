# SPDX-License-Identifier: Apache-2.0
"""State files: what is read back, what is damaged, and what a failure leaves."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from pycm.errors import InvalidInputError
from pycm.storage import files
from pycm.storage.files import StateFile

LIMIT = 100
log = logging.getLogger("pycm.test")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "kept.json"


@pytest.fixture
def file(path: Path) -> StateFile:
    return StateFile(str(path), log, limit=LIMIT, loss="counts start at 0", directory_mode=0o700)


def same(value: Any) -> Any:
    return value


def test_state_file_reads_back_what_was_written(file: StateFile, path: Path) -> None:
    assert file.write({"b": 1, "a": [1.5]})
    assert path.read_text() == '{"b":1,"a":[1.5]}'
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert oct(path.parent.stat().st_mode & 0o777) == "0o700"
    assert file.read(same, None) == {"b": 1, "a": [1.5]}


def test_state_file_that_is_missing_gives_the_default(
    file: StateFile, caplog: pytest.LogCaptureFixture
) -> None:
    assert file.read(same, "nothing") == "nothing"
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON: Expecting value at line 1 column 1"),
        (b"{", "not valid JSON"),
        (b"\0" * 50, "not valid JSON"),
        (b"NaN", "NaN is not a JSON value"),
        (b"[" * 80, "nested 80 levels deep; 64 are allowed"),
        (b" " * LIMIT + b"1", "more than 100 bytes"),
    ],
)
def test_damaged_state_file_is_set_aside_and_named(
    file: StateFile, path: Path, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert file.read(same, 0) == 0
    (message,) = caplog.messages
    assert message.startswith(f"{path}: damaged: ")
    assert reason in message
    assert message.endswith(f"(kept as {path}.damaged; counts start at 0)")
    assert Path(f"{path}.damaged").read_bytes() == content
    assert not path.exists()


def test_state_file_of_the_longest_size_is_read(file: StateFile, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b" " * (LIMIT - 1) + b"1")
    assert file.read(same, 0) == 1


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, InvalidInputError]
)
def test_state_file_that_cannot_be_parsed_is_damaged(
    file: StateFile, path: Path, error: type[Exception]
) -> None:
    def refuse(value: Any) -> Any:
        raise error("unknown form")

    file.write(1)
    assert file.read(refuse, 0) == 0
    assert Path(f"{path}.damaged").read_text() == "1"
    assert file.write(2)
    assert path.read_text() == "2", "the next state is written in its place"


def test_state_file_that_cannot_be_read_stays(
    file: StateFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    assert file.read(same, 0) == 0
    assert caplog.messages == [f"{path}: cannot be read: not a regular file (counts start at 0)"]
    assert path.is_fifo()


def test_damaged_state_file_that_cannot_be_renamed_is_logged(
    file: StateFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_text("{")
    Path(f"{path}.damaged").mkdir()
    assert file.read(same, 0) == 0
    assert caplog.messages[-1] == f"{path}: cannot be renamed: Is a directory"


def test_state_file_is_not_written_again_with_the_same_content(
    file: StateFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write({"a": 1})
    again = StateFile(str(path), log, limit=LIMIT, loss="")
    assert again.read(same, None) == {"a": 1}
    written = []
    monkeypatch.setattr(files, "write_atomic", lambda *arguments: written.append(arguments))
    assert file.write({"a": 1})
    assert again.write({"a": 1})
    assert not written
    file.write({"a": 2})
    assert len(written) == 1


def test_failed_write_is_logged_and_repeated_later(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = StateFile(str(path), log, limit=LIMIT, loss="")
    assert not file.write(1)
    assert caplog.messages == [f"{path}: cannot be written: No such file or directory"]
    with pytest.raises(FileNotFoundError):
        file.save(1)
    path.parent.mkdir()
    assert file.write(1)
    assert path.read_text() == "1"


def test_state_file_without_a_path_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = StateFile("", log, limit=LIMIT, loss="", directory_mode=0o700)
    assert file.write(1)
    assert file.read(same, 0) == 0
    assert list(tmp_path.iterdir()) == []
