# SPDX-License-Identifier: Apache-2.0
"""Plays the conformance vectors of a file: `scripts/vectors FILE [--core|--live]`.

--core (the default): the twin's core alone, with the time in the runner's hand. --live: a private mosquitto, the real connection, twin
and container manager, and a faked runtime below. Prints the names of the failed, with the reason if --verbose, and last `N passed, M failed`;
the exit code is 0 only if none failed. The expected failures of vector_expected.py are failures here.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration"), str(HERE.parents[1] / "src")]

import vector_core  # noqa: E402  the path had to be set first

if TYPE_CHECKING:
    from collections.abc import Sequence


def load(path: pathlib.Path) -> list[dict[str, Any]]:
    """The vectors of a file; SystemExit with one line if it is none."""
    try:
        vectors = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not isinstance(vectors, list) or not all(
        isinstance(v, dict) and "expect" in v and "given" in v for v in vectors
    ):
        raise SystemExit(f"{path}: not a list of vectors with name, given, send and expect")
    if not all(isinstance(vector["expect"], list) for vector in vectors):
        raise SystemExit(f"{path}: these vectors are not about MQTT messages: `expect` must be a list")
    return vectors


def play_all(vectors: Sequence[dict[str, Any]], *, live: bool, verbose: bool) -> int:
    failed = 0
    for name, reason in _results(vectors, live=live):
        if reason:
            failed += 1
            print(f"FAILED {name}" + (f"\n  {reason}" if verbose else ""), flush=True)
    print(f"{len(vectors) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _results(vectors: Sequence[dict[str, Any]], *, live: bool) -> Any:
    if live:
        import vector_live

        yield from vector_live.play_all(vectors)
        return
    for vector in vectors:
        try:
            yield vector.get("name", "?"), vector_core.play(vector)
        except Exception as error:  # noqa: BLE001  a vector that breaks the runner has failed, the others go on
            yield vector.get("name", "?"), f"{type(error).__name__}: {error}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/vectors", description="Play conformance vectors.")
    parser.add_argument("file", type=pathlib.Path)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--core", action="store_true", help="the protocol core alone (default)")
    mode.add_argument("--live", action="store_true", help="a real mosquitto, the agent with a faked runtime")
    parser.add_argument("-v", "--verbose", action="store_true", help="say why a vector failed")
    parser.add_argument("-k", metavar="TEXT", default="", help="only vectors whose name contains TEXT")
    options = parser.parse_args(arguments)
    vectors = [vector for vector in load(options.file) if options.k in vector.get("name", "")]
    return play_all(vectors, live=options.live, verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
