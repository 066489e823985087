# SPDX-License-Identifier: Apache-2.0
"""The demo as a person runs it, and that nothing of it is left, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).resolve().parents[2] / "scripts/demo"
LIMIT = 300
"""Seconds for a whole run of the demo; the first one also makes its environment."""


class Demo:
    """A run of scripts/demo in a temporary directory of its own, output into a file."""

    def __init__(self, tmp: Path, *arguments: str) -> None:
        self.tmp = tmp
        self.log = tmp / "output"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [SCRIPT, *arguments], env={**os.environ, "TMPDIR": str(tmp)}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output() or self.process.poll() is not None)
        assert text in self.output(), self.output()

    def name(self) -> str:
        found = re.search(r"pycm-demo-[0-9a-f]{8}", self.output())
        assert found, self.output()
        return found[0]


@pytest.fixture
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: sockets lie in it, and their paths have at most 107 characters."""
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def demo(tmp: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(tmp, *arguments))
        return started[-1]

    yield start
    for run in started:
        with contextlib.suppress(ProcessLookupError):
            run.process.terminate()
        run.process.wait(LIMIT)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "the awaited did not come"
        time.sleep(0.05)


def left_over(tmp: Path, name: str) -> list[str]:
    """Everything on this machine that carries the demo's name."""
    found = [
        f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line
    ]
    found += [f"directory {path}" for path in tmp.glob("*pycm-demo*")]
    found += [f"runtime state {path}" for path in Path("/run/containerd/runc").glob(name)]
    root = Path("/sys/fs/cgroup")
    found += [f"control group {path}" for path in (*root.glob(name), *root.glob(f"*/{name}"))]
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if name in command or f"/{name}/" in (entry / "cgroup").read_text():
                found.append(f"process {entry.name} {command}")
            elif name in os.readlink(entry / "fd/3"):
                found.append(f"process {entry.name} that keeps output: {command}")
    return found


def shim_sockets(tmp: Path) -> set[Path]:
    """Sockets of the shims of the demos in *tmp*. containerd puts those of all namespaces into one directory."""
    addresses = tmp.glob("*pycm-demo*/containerd/state/io.containerd.runtime.v2.task/*/*/address")
    return {Path(file.read_text().strip().removeprefix("unix://")) for file in addresses}


def test_the_demo_shows_both_containers_each_second_and_leaves_nothing(
    demo: Callable[..., Demo], tmp: Path
) -> None:
    run = demo()

    def shown(name: str) -> list[float]:
        line = rf"^container {name}, status Running, cpu % ([\d.]+), memory [\d.]+ [KM]iB, net in"
        return [float(figure) for figure in re.findall(line, run.output(), re.MULTILINE)]

    wait_until(lambda: run.process.poll() is not None or min(len(shown("busy")), len(shown("quiet"))) >= 3)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(LIMIT) == 0, run.output()
    assert max(shown("busy")) > max(shown("quiet"))
    assert left_over(tmp, run.name()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_told_to_end_cleans_up(demo: Callable[..., Demo], tmp: Path, number: int) -> None:
    run = demo()
    run.wait_for("status Running")
    run.process.send_signal(number)
    assert run.process.wait(LIMIT) == 0, run.output()
    assert left_over(tmp, run.name()) == []


def test_a_demo_told_to_end_while_it_starts_cleans_up(demo: Callable[..., Demo], tmp: Path) -> None:
    run = demo()
    run.wait_for("  image")
    run.process.terminate()
    assert run.process.wait(LIMIT) == 0, run.output()
    assert left_over(tmp, run.name()) == []


def test_a_step_that_fails_is_told_in_words_and_cleaned_up(
    demo: Callable[..., Demo], tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp / "bin"
    programs.mkdir()
    (programs / "mosquitto").write_text("#!/bin/sh\necho 'no broker today' >&2\nexit 3\n")
    (programs / "mosquitto").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    run = demo("--seconds", "5")
    assert run.process.wait(LIMIT) == 1
    assert "error: mosquitto ended with 3:\nno broker today" in run.output()
    assert "Traceback" not in run.output()
    assert left_over(tmp, run.name()) == []


def test_what_a_killed_demo_left_is_removed_by_the_next(demo: Callable[..., Demo], tmp: Path) -> None:
    first = demo()
    first.wait_for("status Running")
    sockets = shim_sockets(tmp)
    assert sockets
    assert all(path.is_socket() for path in sockets)
    first.process.kill()
    first.process.wait(LIMIT)
    assert left_over(tmp, first.name())
    second = demo("--seconds", "1")
    assert second.process.wait(LIMIT) == 0, second.output()
    assert f"removed what a killed demo left: {first.name()}" in second.output()
    assert left_over(tmp, first.name()) == []
    assert list(tmp.glob("*pycm-demo*")) == []
    assert not [path for path in sockets if path.exists()]


def test_a_running_demo_is_not_taken_for_a_dead_one(demo: Callable[..., Demo]) -> None:
    first = demo()
    first.wait_for("status Running")
    second = demo("--seconds", "1")
    assert second.process.wait(LIMIT) == 0
    assert "removed what" not in second.output()
    seen = first.output().count("container busy")
    wait_until(lambda: first.output().count("container busy") > seen)
