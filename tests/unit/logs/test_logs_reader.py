# SPDX-License-Identifier: Apache-2.0
"""json.log read back as the API streams it."""

import os
import tracemalloc

import pytest

from pycm.errors import ConflictError, NotFoundError, OperationFailedError
from pycm.logs import jsonlog
from pycm.logs.front import JsonFileLogs
from pycm.model.container import LogConfiguration, LogDriverConfiguration

JSON = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file", max_files=2, max_size="1M"))


def lines(count, width=0):
    return [
        f'{{"stream":"stdout","log":"é {number} {"x" * width}\\n","time":"t"}}' for number in range(count)
    ]


@pytest.fixture
def logs(tmp_path):
    return JsonFileLogs(str(tmp_path / "home"), str(tmp_path / "run"))


@pytest.fixture
def write(logs):
    def write(content):
        path = logs.path("c1", JSON)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    return write


async def read(logs, tail, config=JSON):
    return [message async for message in logs.read("c1", config, tail)]


@pytest.mark.parametrize("tail", [1, 2, 9, 10, 11, 2**31 - 1])
async def test_a_tail_is_one_record_a_message_without_its_newline(logs, write, tail):
    write("\n".join(lines(10)) + "\n")
    assert await read(logs, tail) == lines(10)[-tail:]


async def test_a_tail_of_nothing_is_no_message(logs, write):
    write("\n".join(lines(3)) + "\n")
    assert await read(logs, 0) == []
    write("")
    assert await read(logs, 5) == []


@pytest.mark.parametrize("tail", [1, 1000, 5000, 7000])
async def test_a_tail_over_many_blocks_is_complete(logs, write, monkeypatch, tail):
    monkeypatch.setattr(jsonlog, "BLOCK", 1000)
    write("\n".join(lines(7000)) + "\n")
    assert await read(logs, tail) == lines(7000)[-tail:]


async def test_a_record_that_is_being_written_is_not_shown(logs, write):
    write("\n".join(lines(3)) + '\n{"stream":"std')
    assert await read(logs, 2) == lines(3)[1:]
    assert await read(logs, -1) == ["\n".join(lines(3)) + "\n"]


async def test_the_whole_file_comes_in_messages_that_end_with_the_record_passing_three_mebibytes(logs, write):
    everything = lines(700, 10_000)
    write("\n".join(everything) + "\n")
    messages = await read(logs, -1)
    assert "".join(messages) == "\n".join(everything) + "\n"
    assert len(messages) == 3
    for message in messages[:-1]:
        size = len(message.encode())
        assert size > jsonlog.MESSAGE_BYTES >= size - len(everything[0].encode()) - 10


async def test_an_empty_file_as_a_whole_is_one_empty_message(logs, write):
    write("")
    assert await read(logs, -1) == [""]


async def test_a_foreign_file_without_lines_never_makes_a_message_too_big_for_grpc(logs, write):
    write(b"x" * (9 * 1024 * 1024) + b"\n")
    for tail in (1, -1):
        messages = await read(logs, tail)
        assert max(map(len, messages)) < 4 * 1024 * 1024
        assert "".join(messages).rstrip("\n") == "x" * (9 * 1024 * 1024)


async def test_a_big_file_is_not_loaded(logs, write):
    write(("\n".join(lines(1000, 1000)) + "\n") * 30)
    tracemalloc.start()
    try:
        assert len(await read(logs, 10)) == 10
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_reading_goes_on_in_the_old_file_when_it_is_rotated_meanwhile(logs, write):
    write("\n".join(lines(500)) + "\n")
    messages = logs.read("c1", JSON, 500)
    first = await anext(messages)
    os.rename(logs.path("c1", JSON), logs.path("c1", JSON) + ".1")
    assert [first, *[message async for message in messages]] == lines(500)


THREE = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file", max_files=3, max_size="1M"))


@pytest.fixture
def rotated(logs, write):
    """Ten records in each of three files, and a fourth file that is older than what is kept."""
    everything = lines(40)
    write("".join(f"{line}\n" for line in everything[30:]))
    for age in (1, 2, 3):
        old = everything[30 - 10 * age : 40 - 10 * age]
        with open(f"{logs.path('c1', THREE)}.{age}", "w") as file:
            file.write("".join(f"{line}\n" for line in old))
    return everything[10:]


@pytest.mark.parametrize("tail", [1, 9, 10, 11, 20, 21, 30, 31, 2**31 - 1])
async def test_a_tail_goes_on_into_rotated_files(logs, rotated, tail):
    assert await read(logs, tail, THREE) == rotated[-tail:]


async def test_everything_is_all_files_that_are_kept_oldest_first(logs, rotated):
    assert "".join(await read(logs, -1, THREE)) == "\n".join(rotated) + "\n"


async def test_rotated_files_that_are_gone_or_links_are_left_out(logs, rotated):
    path = logs.path("c1", THREE)
    os.unlink(f"{path}.1")
    assert await read(logs, 30, THREE) == rotated[:10] + rotated[20:]
    os.unlink(f"{path}.2")
    os.symlink("/etc/passwd", f"{path}.2")
    assert await read(logs, 30, THREE) == rotated[20:]


async def test_a_file_that_is_rotated_between_two_looks_comes_once(logs, rotated):
    path = logs.path("c1", THREE)
    os.unlink(f"{path}.1")
    os.link(path, f"{path}.1")
    assert await read(logs, 20, THREE) == rotated[:10] + rotated[20:]


async def test_no_descriptor_is_left_open(logs, rotated):
    before = os.listdir("/proc/self/fd")
    for tail in (-1, 5, 25):
        await read(logs, tail, THREE)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (None, "no log config for container c1"),
        (LogConfiguration(), "log driver config is not set for container c1"),
        (
            LogConfiguration(driver_config=LogDriverConfiguration(type="none")),
            "there are not any logs for container c1 with log type none",
        ),
        (LogConfiguration(driver_config=LogDriverConfiguration(type="syslog")), "unknown log type syslog"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_original_text(logs, config, text):
    with pytest.raises(ConflictError) as error:
        await read(logs, 1, config)
    assert str(error.value) == text


async def test_a_missing_file_is_named(logs):
    with pytest.raises(NotFoundError) as error:
        await read(logs, 1)
    assert str(error.value) == f"log file not found {logs.path('c1', JSON)}"


async def test_a_link_in_place_of_the_log_is_not_followed(logs, write):
    write("")
    path = logs.path("c1", JSON)
    os.unlink(path)
    os.symlink("/etc/passwd", path)
    with pytest.raises(OperationFailedError, match="cannot read"):
        await read(logs, -1)


def test_a_root_directory_holds_one_directory_a_container(logs):
    rooted = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file", root_dir="/data/logs"))
    assert logs.path("c1", rooted) == "/data/logs/c1/json.log"
    assert logs.path("c1", JSON).endswith(os.path.join("home", "containers", "c1", "json.log"))
