# SPDX-License-Identifier: Apache-2.0
"""How the test command counts, plans and finds interpreters: a run that went wrong must never look like a good one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run_tests(scripts_lib: None) -> Any:
    import run_tests

    return run_tests


@pytest.mark.parametrize(
    ("code", "last", "expected"),
    [
        (0, "===== 12 passed in 3.21s =====", {"passed": 12}),
        (0, "12 passed, 2 skipped, 3 xfailed in 3.21s", {"passed": 12, "skipped": 2, "xfailed": 3}),
        (1, "==== 2 failed, 10 passed, 1 error in 0.1s ====", {"failed": 3, "passed": 10}),
        (
            1,
            "\x1b[31m\x1b[1m1 failed\x1b[0m, \x1b[32m4 passed\x1b[0m in 1s\x1b[0m",
            {"failed": 1, "passed": 4},
        ),
    ],
)
def test_counts_are_those_of_pytests_last_line(
    run_tests: Any, code: int, last: str, expected: dict[str, int]
) -> None:
    assert run_tests.count(code, f"some output\n{last}\n", chosen=False) == Counter(expected)


@pytest.mark.parametrize(
    ("code", "output"),
    [(2, "!!!! Interrupted !!!!"), (-9, ""), (3, "7 passed in 1s"), (5, "no tests ran in 0.01s")],
)
def test_a_run_that_ended_badly_without_a_failed_test_counts_as_a_failure(
    run_tests: Any, code: int, output: str
) -> None:
    assert run_tests.count(code, output, chosen=False)["failed"] == 1


def test_a_run_without_tests_is_fine_when_the_user_chose_them(run_tests: Any) -> None:
    assert run_tests.count(5, "no tests ran in 0.01s", chosen=True)["failed"] == 0


def test_the_closing_line_has_the_form_that_machines_read(run_tests: Any) -> None:
    assert run_tests.summary(Counter(passed=3)) == "3 passed, 0 failed"
    assert run_tests.summary(Counter(passed=3, failed=1, skipped=2)) == "3 passed, 1 failed, 2 skipped"


def test_every_python_and_both_pinned_sets_get_a_unit_run(run_tests: Any) -> None:
    found = [run_tests.Python(minor, f"/usr/bin/python3.{minor}") for minor in (10, 11, 12, 13)]
    runs = run_tests.plan(list(run_tests.PARTS), found)
    assert [(run.name, str(run.python), run.pins) for run in runs] == [
        ("lint", "3.13", ""),
        ("unit, Python 3.13", "3.13", ""),
        ("unit, Python 3.12", "3.12", ""),
        ("unit, Python 3.11", "3.11", ""),
        ("unit, Python 3.10", "3.10", ""),
        ("unit, Python 3.10, kirkstone's versions", "3.10", "kirkstone"),
        ("unit, Python 3.12, scarthgap's versions", "3.12", "scarthgap"),
        ("yocto", "3.13", ""),
        ("integration, what mostly waits", "3.13", ""),
        ("integration", "3.13", ""),
        ("vm", "3.13", ""),
    ]


def test_unit_runs_leave_out_only_what_runs_on_its_own(run_tests: Any) -> None:
    ignored = {path.removeprefix("--ignore=") for path in run_tests.unit_paths()[1:]}
    assert run_tests.unit_paths()[0] == "tests"
    assert ignored == {*run_tests.SEPARATE["lint"], "tests/yocto", "tests/integration", "tests/vm"}
    assert all((run_tests.REPOSITORY / path).exists() for path in ignored)


def test_each_integration_test_is_in_one_of_two_runs(run_tests: Any) -> None:
    waiting, rest = run_tests.plan(["integration"], [run_tests.Python(13, "/usr/bin/python3.13")])
    assert rest.paths == ("tests/integration", *(f"--ignore={path}" for path in waiting.paths))
    assert all((run_tests.REPOSITORY / path).exists() for path in waiting.paths)


def test_an_unknown_part_is_refused_by_name(run_tests: Any) -> None:
    with pytest.raises(run_tests.SetupError, match="no such part: 'units'"):
        run_tests.parse(["units"])


def test_words_after_two_dashes_go_to_pytest(run_tests: Any) -> None:
    assert run_tests.parse(["unit", "--", "-k", "lint"]) == (["unit"], ["-k", "lint"])
    assert run_tests.parse([]) == (["lint", "unit", "yocto", "integration", "vm"], [])


def test_the_newest_patch_of_a_python_comes_first(
    run_tests: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("3.12.9", "3.12.10", "3.11.1"):
        binary = tmp_path / "versions" / version / "bin" / f"python{version.rpartition('.')[0]}"
        binary.parent.mkdir(parents=True)
        binary.touch()
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found = [path for path in run_tests.environment.candidates(12) if path.startswith(str(tmp_path))]
    assert [path.split("/")[-3] for path in found] == ["3.12.10", "3.12.9"]


@pytest.mark.parametrize(
    ("trouble", "code", "text"),
    [
        (PermissionError(13, "Permission denied", "/x"), 1, "error: [Errno 13] Permission denied: '/x'\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_line(
    run_tests: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: BaseException,
    code: int,
    text: str,
) -> None:
    def fail(*_: Any) -> None:
        raise trouble

    monkeypatch.setattr(run_tests.environment, "build", fail)
    monkeypatch.setattr(run_tests.environment, "cache_dir", lambda: tmp_path)
    assert run_tests.environment.main([]) == code
    assert capsys.readouterr() == ("", text)


def test_a_pyenv_of_somebody_else_is_none(run_tests: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.glob", refuse)
    assert run_tests.environment.candidates(12) == ["/usr/bin/python3.12", "/usr/local/bin/python3.12"]


def test_a_report_is_shown_even_if_nothing_failed(run_tests: Any) -> None:
    output = "...\n==== report: boot ====\nready after 12 s\n\nlog\n==== 3 passed in 1s ====\n"
    assert run_tests.report(output) == ["==== report: boot ====", "ready after 12 s", "", "log"]
    assert run_tests.report("...\n==== 3 passed in 1s ====\n") == []
