# SPDX-License-Identifier: Apache-2.0
"""The runner of the vectors: what it prints, its exit code, and files and vectors that are broken."""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

VECTORS = pathlib.Path(__file__).parents[2] / "vectors"
sys.path.insert(0, str(VECTORS))

import runner  # noqa: E402
import vector_core  # noqa: E402

Run = Callable[..., tuple[int, list[str]]]
GOOD = next(
    vector
    for vector in json.loads((VECTORS / "mqtt-twin.json").read_text())
    if vector["name"] == "connect-publishes-empty-envelope-request"
)
BAD = {**GOOD, "name": "bad", "expect": [{"topic_pattern": "never"}]}


@pytest.fixture
def run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def play(content: Any, *words: str) -> tuple[int, list[str]]:
        file = tmp_path / "vectors.json"
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        code = runner.main([str(file), *words])
        return code, capsys.readouterr().out.splitlines()

    return play


def test_the_last_line_counts_and_the_code_is_0_only_if_none_failed(run: Run) -> None:
    assert run([GOOD]) == (0, ["1 passed, 0 failed"])
    assert run([GOOD, BAD]) == (1, ["FAILED bad", "1 passed, 1 failed"])
    assert run([]) == (0, ["0 passed, 0 failed"])


@pytest.mark.parametrize(
    "broken",
    [
        5,
        {},
        {**GOOD, "name": 5},
        {**GOOD, "given": 5},
        {**GOOD, "expect": {}},
        {**GOOD, "expect": [5]},
        {**GOOD, "expect": [{"topic": "never"}]},
        {**GOOD, "expect": [{"subscribe": "edge/thing/response", "qoss": 0}]},
        {**GOOD, "expect": [{"topic_pattern": "(["}]},
        {**GOOD, "order": "stirct"},
        {**GOOD, "forbid": [{"topics": "never"}]},
        {**GOOD, "send": 7},
        {**GOOD, "given": {"stimulus": "sing"}},
        {**GOOD, "given": {"containers": [{"status": []}]}},
    ],
)
def test_a_broken_vector_fails_and_the_others_are_played(run: Run, broken: object) -> None:
    code, lines = run([broken, GOOD], "--verbose")
    assert code == 1
    assert lines[0].startswith("FAILED ")
    assert lines[-1] == "1 passed, 1 failed"


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"{}", b"[" * 100_000, b"NULL"])
def test_a_file_without_vectors_ends_in_one_line_that_names_it(run: Run, content: bytes) -> None:
    with pytest.raises(SystemExit) as ended:
        run(content)
    assert "vectors.json: " in str(ended.value)
    assert "\n" not in str(ended.value)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match=r"none\.json: .*No such file"):
        runner.main([str(tmp_path / "none.json")])


def test_a_choice_that_leaves_nothing_is_no_success(run: Run) -> None:
    with pytest.raises(SystemExit, match="no vector's name contains 'nope'"):
        run([GOOD], "-k", "nope")
    assert run([GOOD, BAD], "-k", "connect") == (0, ["1 passed, 0 failed"])


def test_a_vector_that_never_ends_fails_by_the_time_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(vector: dict[str, Any]) -> str:
        while vector["name"] == "bad":
            try:
                while True:
                    pass
            except Exception:  # noqa: BLE001  as code under test may do
                pass
        return ""

    monkeypatch.setattr(vector_core, "play", play)
    monkeypatch.setattr(runner, "TIME_LIMIT", 0.05)
    code, lines = run([BAD, GOOD], "-v")
    assert code == 1
    assert lines == ["FAILED bad", "  time limit: not done within 0.05 s", "1 passed, 1 failed"]
