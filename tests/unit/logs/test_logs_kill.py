# SPDX-License-Identifier: Apache-2.0
"""Killed at any instant, the pump neither loses nor doubles a line: agents are killed one after the other while a container writes."""

import asyncio
import glob
import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from logs_agent import CONTAINER, config
from logs_shim import output

from pycm.logs.front import JsonFileLogs

HERE = Path(__file__).parent
LIMIT = 60.0
MAX_SIZE = "300k"
LINES = 4000
POINTS = (
    "logs.after-splice",
    "logs.after-append",
    "logs.after-record",
    "logs.after-rename",
    "logs.after-rotate",
    "logs.before-generation",
    "logs.after-generation",
)


class Scene:
    """A container whose output is written by a process of its own, and agents that come and go."""

    def __init__(self, directory, lines=LINES):
        home, run = str(directory / "home"), str(directory / "run")
        self.lines = lines
        self.logs = JsonFileLogs(home, run)
        self.io = self.logs.make_fifos(CONTAINER, terminal=False, stdin=False)
        self.agents = _program("logs_agent.py", home, run, MAX_SIZE)
        self.shim = _program("logs_shim.py", self.io.stdout, self.io.stderr, str(lines))
        assert self.shim.stdout.readline() == "open\n"

    def run(self, command, point=""):
        """Start an agent; its pid."""
        self.agents.stdin.write(f"{command} {point}\n")
        self.agents.stdin.flush()
        return int(self.agents.stdout.readline())

    def status(self):
        """Wait for the end of the agent."""
        return int(self.agents.stdout.readline())

    def finish(self):
        """The last agent lives."""
        self.run("finish")
        assert self.status() == 0
        assert self.shim.wait(LIMIT) == 0

    def close(self):
        for process in (self.shim, self.agents):
            process.kill()
            process.communicate(timeout=LIMIT)
        self.logs.forget(CONTAINER)

    def check(self):
        """Every byte of both streams is in the log once, in order; only the newline at the end was added."""
        live = self.logs.path(CONTAINER, config(MAX_SIZE))
        older = sorted(glob.glob(live + ".*"), key=lambda path: -int(path.rpartition(".")[2]))
        lines = [line for path in (*older, live) for line in Path(path).read_bytes().splitlines()]
        records = [json.loads(line) for line in lines]
        for stream in ("stdout", "stderr"):
            text = "".join(record["log"] for record in records if record["stream"] == stream)
            assert text == output(stream, self.lines) + "\n"


def _program(name, *arguments):
    return subprocess.Popen(
        [sys.executable, HERE / name, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_no_line_is_lost_or_doubled_when_the_agent_dies_between_any_two_steps(scene):
    for count in (1, 2, 3):
        for point in POINTS:
            scene.run("run", f"{point}:{count}")
            assert scene.status() == -signal.SIGKILL
    scene.finish()
    scene.check()


def test_no_line_is_lost_or_doubled_when_the_agent_is_killed_at_random_moments(scene):
    for _ in range(20):
        pid = scene.run("run")
        select.select([], [], [], random.random() * 0.08)
        os.kill(pid, signal.SIGKILL)
        assert scene.status() == -signal.SIGKILL
    scene.finish()
    scene.check()


def test_no_line_is_lost_when_the_agent_dies_at_the_end_of_a_container(scene):
    """Its task is gone when the next agent comes, which only hears that the container is to be finished."""
    scene.run("finish", "logs.before-final")
    assert scene.status() == -signal.SIGKILL
    asyncio.run(scene.logs.finish(CONTAINER))
    scene.check()


def test_a_new_run_first_writes_what_the_run_before_left(scene):
    scene.run("finish", "logs.before-final")
    assert scene.status() == -signal.SIGKILL
    scene.logs.make_fifos(CONTAINER, terminal=False, stdin=False)
    asyncio.run(scene.logs.close())
    scene.check()


def test_the_last_words_of_a_container_that_ends_while_no_agent_runs_are_kept(tmp_path):
    scene = Scene(tmp_path, lines=50)
    try:
        scene.logs._prepared.pop(
            CONTAINER
        ).close()  # as by a kill: only shim and keeper have the FIFOs open now
        assert scene.shim.wait(LIMIT) == 0
        scene.finish()
        scene.check()
    finally:
        scene.close()
