# SPDX-License-Identifier: Apache-2.0
"""A file system that really runs full under json.log, and a spool that really runs full."""

import asyncio
import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pycm.logs.front import JsonFileLogs
from pycm.model.container import LogConfiguration, LogDriverConfiguration

pytestmark = pytest.mark.integration

LIMIT = 120.0
LINES = 5000
CONFIG = LogConfiguration(
    driver_config=LogDriverConfiguration(type="json-file", max_files=2, max_size="100M")
)


@pytest.fixture
def small(tmp_path):
    """A file system of 256 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "pycm-test", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


async def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def logged(logs):
    """What is in the log; a record that is being written just now does not count."""
    try:
        content = Path(logs.path("c1", CONFIG)).read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line)["log"] for line in content.split(b"\n")[:-1]]


async def write(io, lines):
    descriptor = os.open(io.stdout, os.O_WRONLY)
    await asyncio.to_thread(os.write, descriptor, "".join(lines).encode())
    os.close(descriptor)


def fill(directory):
    with open(directory / "ballast", "wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def grow(directory):
    subprocess.run(["mount", "-o", "remount,size=16m", directory], check=True)


@pytest.fixture
async def start(small):
    """Start the logs of one container with home and exec root as given."""
    started = []

    def start(home, run):
        logs = JsonFileLogs(str(home), str(run))
        started.append(logs)
        io = logs.make_fifos("c1", terminal=True, stdin=False)
        logs.attach("c1", io, CONFIG)
        return logs, io

    yield start
    for logs in started:
        await logs.finish("c1")
        await logs.close()
        logs.forget("c1")


async def test_output_waits_for_room_on_the_disk_and_no_record_is_torn(small, start, tmp_path, caplog):
    logs, io = start(small, tmp_path / "run")
    lines = [f"line {number} {'-' * 20}\n" for number in range(LINES)]
    await write(io, lines[:-1])
    await until(lambda: "No space left on device" in caplog.text)
    assert logged(logs) == lines[: len(logged(logs))]
    grow(small)
    await until(lambda: logged(logs) == lines[:-1])
    await write(io, lines[-1:])
    await logs.finish("c1")
    assert logged(logs) == lines


async def test_a_full_spool_costs_no_output(small, start, tmp_path, caplog):
    logs, io = start(tmp_path / "home", small)
    await write(io, ["first\n"])
    await until(lambda: logged(logs) == ["first\n"])
    fill(small)
    lines = [f"line {number}\n" for number in range(LINES)]
    await write(io, lines)
    await logs.finish("c1")
    assert logged(logs) == ["first\n", *lines]
    assert caplog.text.count("a kill of the agent may lose some") == 1
