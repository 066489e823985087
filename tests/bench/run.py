# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, prints one table of their figures beside the limits, and writes it as JSON.

A missed limit is shown as MISSED; the exit code is 1 only if a benchmark could not be run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "integration")]

from figures import BenchmarkError, Figure, as_json, table  # noqa: E402  the path has to be there first

#: Name to module and what it measures. Each module has run(options) -> list[Figure].
BENCHMARKS = {
    "sample": ("sample_cost", "CPU of one container's sample against C"),
    "sweep": ("sweep_cost", "CPU of a sweep against containerd's Metrics calls"),
    "agent": ("agent_cost", "memory, wake-ups, disk writes, growth and start of the agent"),
    "exit": ("exit_to_twin", "a container's exit to the message of it"),
    "crowd": ("crowd_cost", "one start against ctr's, a hundred containers at once"),
    "return": ("containerd_return", "containerd killed and back under twenty containers"),
    "operations": ("soak", "memory over five thousand operations"),
    "cli": ("command_line", "CPU of the command line"),
}


def options_of(arguments: list[str]) -> argparse.Namespace:
    text = "\n".join(f"  {name:8} {what}" for name, (_, what) in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog=f"benchmarks:\n{text}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=BENCHMARKS, help="only this one (repeatable)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the table as JSON")
    parser.add_argument(
        "--soak",
        metavar="MINUTES",
        type=float,
        nargs="?",
        const=30.0,
        help="instead of all these: containers live all they can live for so long (default: 30)",
    )
    parser.add_argument("--full", action="store_true", help="with 100 containers too: some minutes more")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = options_of(arguments)
    # a device has byte code; a developer who has none would measure the compiler
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures: list[Figure] = []
    failed = 0
    chosen = ["operations"] if options.soak else options.only or list(BENCHMARKS)
    for name in chosen:
        module, what = BENCHMARKS[name]
        print(f"{name}: {what} ...", file=sys.stderr)
        try:
            figures += importlib.import_module(module).run(options)
        except (BenchmarkError, AssertionError, OSError, ImportError) as error:
            print(f"{name}: could not be run: {error}", file=sys.stderr)
            failed = 1
    if figures:
        print(table(figures))
    for figure in figures:
        if figure.detail:
            print(f"  {figure.name}: {figure.detail}")
    if options.json:
        Path(options.json).write_text(as_json(figures))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
