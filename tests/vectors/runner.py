# SPDX-License-Identifier: Apache-2.0
"""Plays the conformance vectors of a file: `scripts/vectors FILE [--core|--live]`.

--core (the default): the twin's core alone, with the time in the runner's hand. --live: a private mosquitto, the real connection, twin
and container manager, and a faked runtime below. Prints the names of the failed, with the reason if --verbose, and last `N passed, M failed`;
the exit code is 0 only if none failed. The expected failures of vector_expected.py are failures here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import signal
import sys
from typing import TYPE_CHECKING, Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "integration"), str(HERE.parents[1] / "src")]

import vector_core  # noqa: E402  the path had to be set first
from vector_matching import malformed  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Seconds for one vector, whatever happens. The live player gives up earlier by itself; a core that never returns cannot.
TIME_LIMIT = 60.0


def load(path: pathlib.Path) -> list[Any]:
    """The vectors of a file; SystemExit with one line if it is none."""
    try:
        vectors = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not isinstance(vectors, list):
        raise SystemExit(f"{path}: not a list of vectors with name, given, send and expect")
    return vectors


def name_of(vector: Any) -> str:
    return str(vector.get("name", "?") if isinstance(vector, dict) else "?")


def play_all(vectors: Sequence[Any], play: Callable[[dict[str, Any]], str], *, verbose: bool) -> int:
    """Play one after the other with *play*, which returns what is wrong with a vector. Returns the exit code."""
    failed = 0
    for vector in vectors:
        if reason := _result(vector, play):
            failed += 1
            print(f"FAILED {name_of(vector)}" + (f"\n  {reason}" if verbose else ""), flush=True)
    print(f"{len(vectors) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _result(vector: Any, play: Callable[[dict[str, Any]], str]) -> str:
    if wrong := malformed(vector):
        return f"broken vector: {wrong}"
    try:
        with at_most(TIME_LIMIT):
            return play(vector)
    except TooLong:
        return f"time limit: not done within {TIME_LIMIT:g} s"
    except Exception as error:  # noqa: BLE001  a vector that breaks the runner has failed, the others go on
        return f"{type(error).__name__}: {error} ({json.dumps(vector)[:200]})"


class TooLong(BaseException):
    """No Exception: what is being played must not take it for one of its own failures."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Ends its body after *seconds*, also one that never waits. For the main thread only."""

    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/vectors", description="Play conformance vectors.")
    parser.add_argument("file", type=pathlib.Path)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--core", action="store_true", help="the protocol core alone (default)")
    mode.add_argument("--live", action="store_true", help="a real mosquitto, the agent with a faked runtime")
    parser.add_argument("-v", "--verbose", action="store_true", help="say why a vector failed")
    parser.add_argument("-k", metavar="TEXT", default="", help="only vectors whose name contains TEXT")
    options = parser.parse_args(arguments)
    vectors = [vector for vector in load(options.file) if options.k in name_of(vector)]
    if options.k and not vectors:
        raise SystemExit(f"{options.file}: no vector's name contains {options.k!r}")
    return play_all(vectors, _player(live=options.live), verbose=options.verbose)


def _player(*, live: bool) -> Callable[[dict[str, Any]], str]:
    if not live:
        return vector_core.play
    import vector_live  # needs mosquitto

    return vector_live.play


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
