# SPDX-License-Identifier: Apache-2.0
"""Run the tests of this repository: scripts/test [--all | --power] [PART | FILE]... [-- PYTEST ARGUMENT...]

- scripts/test: first tier, which CI runs: all parts, and a sample of the other two tiers.
- scripts/test PART...: some parts of it.
- scripts/test FILE...: test files, directories or node ids, with the newest Python.
- scripts/test PART -- ARGUMENT...: with arguments for pytest, each part once, with the newest Python.
- scripts/test --all: second tier: also every Python, all pins, a chroot of Debian testing.
- scripts/test --power: third tier: power cuts at each step of the agent's writes, in a guest; a soak.

Parts:

- lint: ruff, mypy, import-linter, shellcheck, style of prose and commits.
- unit: kirkstone's versions (Python 3.10), scarthgap's (3.12), the newest Python with the newest libraries.
- yocto: the layer, by BitBake's library, oelint-adv and kas.
- integration: against a real containerd, mosquitto and registry, which the tests start themselves.
- vm: in an arm64 guest under QEMU, with real cgroup v2; the first time also builds the guest.

Each run prints one line. The output of a run follows if it failed, or if there are files or pytest arguments. The last
line is the sum of all runs.
"""

from __future__ import annotations

import argparse
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
from typing import TYPE_CHECKING

import debian_testing
import environment
from environment import REPOSITORY, Python, SetupError

if TYPE_CHECKING:
    from pathlib import Path

PARTS = ("lint", "unit", "yocto", "integration", "vm")
SEPARATE = {
    "lint": (
        "tests/test_linters.py",
        "tests/test_style.py",
        "tests/test_openapi.py",
        "tests/test_commits.py",
        "tests/test_architecture.py",
    ),
    "yocto": ("tests/yocto",),
    "integration": ("tests/integration",),
    "vm": ("tests/vm",),
    "power": ("tests/power",),
}
"""Paths of the parts that run once. Every other test under tests/ is a unit test."""
PINNED = {"kirkstone": 10, "scarthgap": 12, "wrynose": 14}
"""Yocto releases with a file of pins, and the minor version of Python in each."""
FIRST_TIER = ("kirkstone", "scarthgap")
SIDE_BY_SIDE = ("-n", "3", "--dist", "loadfile")
"""Integration tests wait for other programs most of the time: three processes keep two cores busy."""
SOAK_MINUTES = {"power": 30, "sample": 4}
RUN_LIMIT = 60 * 60
"""Seconds after which a run is terminated and counted as failed."""
NO_TESTS = 5
"""pytest's exit code if it found nothing to run."""
PAGE = REPOSITORY / "docs/testing.md"


@dataclass
class Run:
    """One process that tests: pytest in an environment, in the chroot, or the soak of scripts/bench."""

    name: str
    python: Python
    paths: tuple[str, ...]
    pins: str = ""
    options: tuple[str, ...] = ()
    place: str = "environment"
    counts: Counter[str] = field(default_factory=Counter)

    def command(self, arguments: list[str]) -> list[str]:
        if self.place == "soak":
            return [str(REPOSITORY / "scripts/bench"), *self.options]
        if self.place == "chroot":
            return debian_testing.command([*self.paths, *self.options, *arguments])
        place = environment.environment(self.python, "dev", self.pins)
        cache = environment.cache_dir() / "pytest" / re.sub(r"\W+", "-", self.name)
        colour = "yes" if sys.stdout.isatty() else "no"
        options = ["-o", f"cache_dir={cache}", f"--color={colour}", *self.options]
        return [str(place / "bin/python"), "-m", "pytest", *options, *self.paths, *arguments]


def unit_paths() -> tuple[str, ...]:
    return ("tests", *(f"--ignore={path}" for paths in SEPARATE.values() for path in paths))


def units(found: list[Python]) -> tuple[list[Run], list[Run]]:
    """Unit runs of the first tier, and those that the second tier adds."""
    first, more = [Run(f"unit, Python {found[-1]}", found[-1], unit_paths())], []
    for release, minor in PINNED.items():
        for python in found:
            if python.minor == minor:
                run = Run(f"unit, Python {python}, {release}'s versions", python, unit_paths(), release)
                (first if release in FIRST_TIER else more).append(run)
    more += [Run(f"unit, Python {python}", python, unit_paths()) for python in reversed(found[:-1])]
    return first, [*more, Run("unit, Debian testing", found[-1], unit_paths(), place="chroot")]


def git(*words: str) -> str:
    command = ["git", "-c", f"safe.directory={REPOSITORY}", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def power(newest: Python, number: int | None = None) -> list[Run]:
    """Runs of the third tier. *number*: the small ones of a sample, with one power cut."""
    chosen = ("--power-sample", str(number)) if number is not None else ()
    minutes = SOAK_MINUTES["power" if number is None else "sample"]
    return [
        Run("power cuts", newest, SEPARATE["power"], options=chosen),
        Run(f"soak of {minutes} minutes", newest, (), options=("--soak", str(minutes)), place="soak"),
    ]


def sample(found: list[Python]) -> Run:
    """One run of the other tiers. The number of the commit chooses it, so that a week of commits sees them all."""
    number = int(git("rev-list", "--count", "HEAD") or 0)
    runs = [*units(found)[1], *power(found[-1], number // 2)]
    run = runs[number % len(runs)]
    print(f"sample of the other tiers for commit number {number}: {run.name}")
    return run


def plan(options: argparse.Namespace, found: list[Python]) -> list[list[Run]]:
    """Return the lanes: lists of runs, each in order. Lanes run side by side."""
    newest, parts = found[-1], options.parts
    if options.files:
        return [[Run(" ".join(options.files), newest, tuple(options.files))]]
    if options.power:
        return [power(newest)]
    once = {part: [Run(part, newest, SEPARATE[part])] if part in parts else [] for part in SEPARATE}
    first, more = units(found)
    if not options.all:
        more = []
        first = first[:1] if options.arguments else first
    if "unit" not in parts:
        first = more = []
    for run in () if options.arguments else once["integration"]:
        run.options = SIDE_BY_SIDE
    extra = [sample(found)] if options.whole and not options.all else []
    return [[*once["lint"], *first, *more, *once["vm"]], [*once["integration"], *once["yocto"], *extra]]


class Runner:
    """Executes runs, and ends those under way when the script has to stop."""

    def __init__(self, arguments: list[str], *, show: bool) -> None:
        self.arguments, self.show = arguments, show
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
        run.counts = count(code, output, chosen=self.show, pytest=run.place != "soak")
        failed = run.counts["failed"]
        with self.lock:
            if failed or self.show:
                print(f"── {run.name} ──\n{output.rstrip()}")
            took = time.monotonic() - began
            verdict = "FAILED" if failed else "ok"
            print(f"{verdict:6} {run.name}: {summary(run.counts)} ({took:.0f} s)", flush=True)
            for line in () if failed or self.show else report(output):
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
            output += f"\nterminated after {RUN_LIMIT} s\n".encode()
        finally:
            self.active.discard(process)
        return process.returncode, output.decode(errors="replace")

    def stop(self, *_: object) -> None:
        """End the runs under way: by SIGINT, on which pytest tears its fixtures down, the second time by force."""
        for process in tuple(self.active):
            if self.stopping:
                end_group(process)
            else:
                process.send_signal(signal.SIGINT)
        self.stopping = True


def end_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def count(code: int, output: str, *, chosen: bool, pytest: bool = True) -> Counter[str]:
    """Read the counts in pytest's last line. A run that failed without a failed test, or that is empty, counts as one
    failure.
    """
    counts: Counter[str] = Counter()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output).rstrip()
    last = plain.rpartition("\n")[2] if pytest else ""
    for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", last):
        counts["failed" if word.startswith("error") else word] += int(number)
    fine = code == 0 or (code == NO_TESTS and chosen)
    if not pytest:
        fine = fine and "MISSED" not in plain
        counts["passed"] = int(fine)
    if not fine and not counts["failed"]:
        counts["failed"] = 1
    return counts


def report(output: str) -> list[str]:
    """Return what tests print for people although nothing failed: pytest's sections named "report: ..."."""
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
    """Make two at a time: pip waits for the network half of the time. A failure shows again, in full, in its run."""
    wanted = {(run.python, run.pins) for run in runs if run.place == "environment"}
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(environment.environment, python, "dev", pins) for python, pins in wanted]
    for future in futures:
        if error := future.exception():
            print(f"error: {error}".splitlines()[0], file=sys.stderr)


def execute_all(lanes: list[list[Run]], runner: Runner) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, runner.stop)
    with ThreadPoolExecutor(len(lanes)) as pool:
        for lane in [pool.submit(runner.lane, runs) for runs in lanes]:
            lane.result()
    if runner.stopping:
        raise KeyboardInterrupt


def record(tier: str, counts: Counter[str], page: Path = PAGE) -> None:
    """Write the date and the commit of a whole run of the second or third tier into docs/testing.md."""
    if git("status", "--porcelain", "--untracked-files=no"):
        print(f"not recorded in {page.name}: the work tree differs from its commit")
        return
    commit = git("rev-parse", "--short", "HEAD")
    row = f"| `scripts/test {tier}` | {time.strftime('%Y-%m-%d')} | {commit} | {summary(counts)} |"
    page.write_text(re.sub(rf"(?m)^\| `scripts/test {tier}` \|.*$", row, page.read_text()))
    print(f"recorded in {page.name}: commit it")


def parse(words: list[str]) -> argparse.Namespace:
    end = words.index("--") if "--" in words else len(words)
    if {"-h", "--help"} & set(words[:end]):
        print(__doc__.strip())
        sys.exit()
    parser = argparse.ArgumentParser(prog="scripts/test", add_help=False)
    tier = parser.add_mutually_exclusive_group()
    tier.add_argument("--all", action="store_true")
    tier.add_argument("--power", action="store_true")
    parser.add_argument("words", nargs="*", metavar="PART | FILE")
    options = parser.parse_args(words[:end])
    after = words[end + 1 :]
    options.files = [word for word in [*options.words, *after] if is_test_path(word)]
    options.arguments = [word for word in after if word not in options.files]
    options.parts = [word for word in options.words if word not in options.files]
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        raise SetupError(
            f"no such part or file: {unknown[0]!r}; parts are {', '.join(PARTS)}; pytest arguments come after --"
        )
    options.whole = not words or words in (["--all"], ["--power"])
    options.parts = options.parts or list(PARTS)
    return options


def is_test_path(word: str) -> bool:
    path = word.partition("::")[0]
    return (
        path not in PARTS
        and (REPOSITORY / path).exists()
        and (REPOSITORY / "tests") in (REPOSITORY / path).resolve().parents
    )


def main() -> int:
    options = parse(sys.argv[1:])
    found = environment.pythons() or [environment.newest()]
    print(f"Python: {', '.join(f'{python} ({python.path})' for python in found)}")
    missing = sorted(set(environment.MINORS) - {python.minor for python in found})
    if missing:
        print(f"Python not on this machine, so not tested: {', '.join(f'3.{minor}' for minor in missing)}")
    lanes = plan(options, found)
    runs = [run for lane in lanes for run in lane]
    make_environments(runs)
    print(f"environments ready in {environment.cache_dir()}", flush=True)
    execute_all(lanes, Runner(options.arguments, show=bool(options.files or options.arguments)))
    environment.prune()
    total = sum((run.counts for run in runs), Counter())
    if options.whole and (options.all or options.power) and not total["failed"]:
        record("--all" if options.all else "--power", total)
    print(summary(total))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        # a second Ctrl-C while Python ends would print a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit("stopped")
