# SPDX-License-Identifier: Apache-2.0
"""Run the tests of this repository: scripts/test [PART...] [-- PYTEST ARGUMENTS]

Parts (all, if none is named):
  lint         ruff, mypy, import-linter, shellcheck and the rules of the house, as tests
  unit         every Python from 3.10 to 3.13 with the newest libraries, then kirkstone's and scarthgap's versions
  yocto        the layer: its recipes read and run by BitBake's library, oelint-adv, kas (brings an environment of its own)
  integration  against a real containerd and a real mosquitto, which the tests start themselves
  vm           in an arm64 guest under QEMU, with real cgroup v2 (about two minutes; the first time also builds the guest)

Each run has a line of its own; the output of a run is shown if it fails, or if there are pytest arguments. The last line is the sum.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import environment
from environment import REPOSITORY, Python, SetupError

PARTS = ("lint", "unit", "yocto", "integration", "vm")
SEPARATE = {
    "lint": ("tests/test_linters.py", "tests/test_style.py", "tests/test_commits.py"),
    "yocto": ("tests/yocto",),
    "integration": ("tests/integration",),
    "vm": ("tests/vm",),
}
"""What runs once; every other test under tests/ is a unit test and runs with each Python."""
MOSTLY_WAITING = ("tests/integration/test_twin_vectors_live.py", "tests/integration/test_network_killed.py")
"""Integration tests that take minutes and little CPU: they run in the lane of the units, which is the shorter one."""
PINNED = {"kirkstone": 10, "scarthgap": 12}
"""Sets of versions as Yocto releases have them, and the minor version of Python that goes with each."""
RUN_LIMIT = 45 * 60
"""Seconds after which a run is ended and counted as failed."""
NO_TESTS = 5
"""pytest's exit code when it found nothing to run."""


@dataclass
class Run:
    """One call of pytest in one environment."""

    name: str
    python: Python
    paths: tuple[str, ...]
    pins: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def command(self, arguments: list[str]) -> list[str]:
        place = environment.environment(self.python, "dev", self.pins)
        cache = environment.cache_dir() / "pytest" / re.sub(r"\W+", "-", self.name)
        colour = "yes" if sys.stdout.isatty() else "no"
        options = ["-o", f"cache_dir={cache}", f"--color={colour}"]
        return [str(place / "bin/python"), "-m", "pytest", *options, *self.paths, *arguments]


def unit_paths() -> tuple[str, ...]:
    return ("tests", *(f"--ignore={path}" for paths in SEPARATE.values() for path in paths))


def plan(parts: list[str], found: list[Python]) -> list[Run]:
    """All runs, in the order in which a person wants to hear of failures."""
    newest = found[-1]
    once = {part: Run(part, newest, paths) for part, paths in SEPARATE.items() if part in parts}
    waiting: list[Run] = []
    if "integration" in once:
        once["integration"].paths += tuple(f"--ignore={path}" for path in MOSTLY_WAITING)
        waiting.append(Run("integration, what mostly waits", newest, MOSTLY_WAITING))
    units: list[Run] = []
    if "unit" in parts:
        units += [Run(f"unit, Python {python}", python, unit_paths()) for python in reversed(found)]
        pinned = [
            (release, python)
            for release, minor in PINNED.items()
            for python in found
            if python.minor == minor
        ]
        units += [
            Run(f"unit, Python {python}, {release}'s versions", python, unit_paths(), release)
            for release, python in pinned
        ]
    order = [once.get("lint"), *units, once.get("yocto"), *waiting, once.get("integration"), once.get("vm")]
    return [run for run in order if run]


class Runner:
    """Executes runs and ends those under way when the script is told to stop."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.lock = threading.Lock()
        self.active: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def lane(self, runs: list[Run]) -> None:
        for run in runs:
            if not self.stopping:
                self.execute(run)

    def execute(self, run: Run) -> None:
        began = time.monotonic()
        try:
            code, output = self.call(run.command(self.arguments))
        except SetupError as error:
            code, output = 1, str(error)
        run.counts = count(code, output, chosen=bool(self.arguments))
        failed = run.counts["failed"]
        with self.lock:
            if failed or self.arguments:
                print(f"── {run.name} ──\n{output.rstrip()}")
            took = time.monotonic() - began
            print(
                f"{'FAILED' if failed else 'ok':6} {run.name}: {summary(run.counts)} ({took:.0f} s)",
                flush=True,
            )
            for line in () if failed or self.arguments else report(output):
                print(line, flush=True)

    def call(self, command: list[str]) -> tuple[int, str]:
        """Run in a session of its own, so that whatever it leaves behind can be ended with it."""
        environ = {**os.environ, "PATH": f"{os.path.dirname(command[0])}:{os.environ['PATH']}"}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the programs under test are started a thousand times
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.active.add(process)
        try:
            output, _ = process.communicate(timeout=RUN_LIMIT)
        except subprocess.TimeoutExpired:
            end_group(process)
            output, _ = process.communicate()
            output += f"\nended after {RUN_LIMIT} s\n".encode()
        finally:
            self.active.discard(process)
        return process.returncode, output.decode(errors="replace")

    def stop(self, *_: object) -> None:
        """Asked to end: pytest runs the tear-down of its fixtures on SIGINT. Asked again: no more waiting."""
        for process in tuple(self.active):
            if self.stopping:
                end_group(process)
            else:
                process.send_signal(signal.SIGINT)
        self.stopping = True


def end_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def count(code: int, output: str, *, chosen: bool) -> Counter[str]:
    """Counts of pytest's last line. A run that failed without a failed test counts as one failure, and so does an empty run."""
    counts: Counter[str] = Counter()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output).rstrip()
    last = plain.rpartition("\n")[2]
    for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", last):
        counts["failed" if word.startswith("error") else word] += int(number)
    fine = code == 0 or (code == NO_TESTS and chosen)
    if not fine and not counts["failed"]:
        counts["failed"] = 1
    return counts


def report(output: str) -> list[str]:
    """What tests print for people even if nothing failed: pytest's sections named "report: ..."."""
    shown, inside = [], False
    for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines():
        if re.fullmatch(r"=+ .* =+", line):
            inside = re.match(r"=+ report: ", line) is not None
        if inside:
            shown.append(line)
    return shown


def summary(counts: Counter[str]) -> str:
    text = f"{counts['passed']} passed, {counts['failed']} failed"
    return text + (f", {counts['skipped']} skipped" if counts["skipped"] else "")


def make_environments(runs: list[Run]) -> None:
    """Two at a time: pip waits for the network half of the time. Failures show again, with their text, in the run itself."""
    wanted = {(run.python, run.pins) for run in runs}
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(environment.environment, python, "dev", pins) for python, pins in wanted]
    for future in futures:
        if error := future.exception():
            print(f"error: {error}".splitlines()[0], file=sys.stderr)


def execute_all(runs: list[Run], arguments: list[str]) -> None:
    """Most of integration, which waits for other programs half of the time, beside all else. The guest comes last and by itself: what it
    tells of CPU time is only right where it has a CPU of the host for itself.
    """
    runner = Runner(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, runner.stop)
    beside = [run for run in runs if run.name == "integration"]
    last = [run for run in runs if run.name == "vm"]
    first = [run for run in runs if run not in beside + last]
    with ThreadPoolExecutor(2) as pool:
        for lane in [pool.submit(runner.lane, runs) for runs in (first, beside)]:
            lane.result()
    runner.lane(last)
    if runner.stopping:
        raise KeyboardInterrupt


def parse(words: list[str]) -> tuple[list[str], list[str]]:
    end = words.index("--") if "--" in words else len(words)
    parts, arguments = words[:end], words[end + 1 :]
    if {"-h", "--help"} & set(parts):
        print(__doc__.strip())
        sys.exit()
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SetupError(
            f"no such part: {unknown[0]!r}; parts are {', '.join(PARTS)}; pytest arguments come after --"
        )
    return parts or list(PARTS), arguments


def main() -> int:
    parts, arguments = parse(sys.argv[1:])
    environment.newest()
    found = environment.pythons()
    print(f"Python: {', '.join(f'{python} ({python.path})' for python in found)}")
    missing = [
        f"3.{minor}" for minor in environment.MINORS if minor not in {python.minor for python in found}
    ]
    if missing:
        print(f"Python not on this machine, so not tested: {', '.join(missing)}")
    runs = plan(parts, found)
    make_environments(runs)
    print(f"environments ready in {environment.cache_dir()}", flush=True)
    execute_all(runs, arguments)
    environment.prune()
    total = sum((run.counts for run in runs), Counter())
    print(summary(total))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # a second Ctrl-C while Python ends would print a traceback
        sys.exit("stopped")
