# SPDX-License-Identifier: Apache-2.0
"""How the test command counts, plans and finds interpreters: a run that went wrong must never look like a good one."""

from __future__ import annotations

import re
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


def planned(run_tests: Any, *words: str, minors: tuple[int, ...] = (10, 11, 12, 13)) -> list[list[str]]:
    """Names of the runs of each lane; what a sample adds is shown as "sample"."""
    found = [run_tests.Python(minor, f"/usr/bin/python3.{minor}") for minor in minors]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_tests, "sample", lambda _: run_tests.Run("sample", found[-1], ()))
        lanes = run_tests.plan(run_tests.parse(list(words)), found)
    return [[run.name for run in lane] for lane in lanes]


FIRST_UNITS = [
    "unit, Python 3.13",
    "unit, Python 3.10, kirkstone's versions",
    "unit, Python 3.12, scarthgap's versions",
]


def test_plan_of_first_tier_has_both_pinned_sets_the_newest_python_and_a_sample(run_tests: Any) -> None:
    assert planned(run_tests) == [["lint", *FIRST_UNITS, "vm"], ["integration", "yocto", "sample"]]


def test_plan_of_second_tier_has_every_python_and_the_chroot(run_tests: Any) -> None:
    more = ["unit, Python 3.12", "unit, Python 3.11", "unit, Python 3.10", "unit, Debian testing"]
    assert planned(run_tests, "--all") == [["lint", *FIRST_UNITS, *more, "vm"], ["integration", "yocto"]]
    names = planned(run_tests, "--all", "unit", minors=(10, 14))[0]
    assert "unit, Python 3.14, wrynose's versions" in names


def test_plan_of_third_tier_is_power_cuts_and_a_soak(run_tests: Any) -> None:
    assert planned(run_tests, "--power") == [["power cuts", "soak of 30 minutes"]]


def test_plan_of_a_part_with_pytest_arguments_has_one_environment(run_tests: Any) -> None:
    assert planned(run_tests, "unit", "--", "-k", "stats") == [["unit, Python 3.13"], []]
    assert len(planned(run_tests, "--all", "unit", "--", "-k", "stats")[0]) == 7


def test_plan_of_a_file_collects_only_that_file(run_tests: Any) -> None:
    file = "tests/unit/scripts/test_scripts_runs.py"
    for words in ([file], ["unit", "--", file], ["--", file, "-x"]):
        options = run_tests.parse(words)
        ((run,),) = run_tests.plan(options, [run_tests.Python(13, "/usr/bin/python3.13")])
        assert run.paths == (file,)
        assert options.arguments == (["-x"] if "-x" in words else [])


def test_plan_of_a_node_id_has_the_node_id(run_tests: Any) -> None:
    node = "tests/unit/scripts/test_scripts_runs.py::test_plan_of_a_node_id_has_the_node_id"
    assert planned(run_tests, node) == [[node]]


def test_sample_meets_every_other_run_within_a_round_of_commits(
    run_tests: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [run_tests.Python(minor, f"/usr/bin/python3.{minor}") for minor in (10, 11, 12, 13)]
    seen = set()
    for number in range(6):
        monkeypatch.setattr(run_tests, "git", lambda *_, n=number: str(n))
        seen.add(run_tests.sample(found).name)
    assert seen == {
        "unit, Python 3.12", "unit, Python 3.11", "unit, Python 3.10", "unit, Debian testing", "power cuts", "soak of 4 minutes",
    }  # fmt: skip
    assert "sample of the other tiers for commit number 5: soak of 4 minutes" in capsys.readouterr().out


def test_unit_runs_leave_out_only_what_runs_on_its_own(run_tests: Any) -> None:
    ignored = {path.removeprefix("--ignore=") for path in run_tests.unit_paths()[1:]}
    assert run_tests.unit_paths()[0] == "tests"
    assert ignored == {
        *run_tests.SEPARATE["lint"],
        "tests/yocto",
        "tests/integration",
        "tests/vm",
        "tests/power",
    }
    assert all((run_tests.REPOSITORY / path).exists() for path in ignored)


def test_an_unknown_part_is_refused_by_name(run_tests: Any) -> None:
    with pytest.raises(run_tests.SetupError, match="no such part or file: 'units'"):
        run_tests.parse(["units"])


def test_words_after_two_dashes_go_to_pytest(run_tests: Any) -> None:
    options = run_tests.parse(["unit", "--", "-k", "lint"])
    assert (options.parts, options.arguments, options.whole) == (["unit"], ["-k", "lint"], False)
    options = run_tests.parse([])
    assert (options.parts, options.arguments, options.whole) == (list(run_tests.PARTS), [], True)


@pytest.mark.parametrize(
    ("code", "output", "failed"), [(0, "memory 3 KiB ok", 0), (0, "memory 300 KiB MISSED", 1), (1, "", 1)]
)
def test_soak_that_misses_a_limit_counts_as_a_failure(
    run_tests: Any, code: int, output: str, failed: int
) -> None:
    counts = run_tests.count(code, output, chosen=False, pytest=False)
    assert (counts["passed"], counts["failed"]) == (1 - failed, failed)


def test_page_names_the_last_whole_run_of_each_tier(run_tests: Any) -> None:
    row = r"(?m)^\| `scripts/test --{}` \| (\d{{4}}-\d\d-\d\d|not yet) \| ([0-9a-f]{{7,}}|-) \| .+ \|$"
    page = run_tests.PAGE.read_text()
    for tier in ("all", "power"):
        assert re.search(row.format(tier), page), tier


def test_record_writes_date_commit_and_counts(
    run_tests: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "testing.md"
    page.write_text(run_tests.PAGE.read_text())
    monkeypatch.setattr(run_tests, "git", lambda *words: {"status": "", "rev-parse": "abcdef1"}[words[0]])
    run_tests.record("--all", Counter(passed=7), page)
    assert re.search(
        r"(?m)^\| `scripts/test --all` \| \d{4}-\d\d-\d\d \| abcdef1 \| 7 passed, 0 failed \|$",
        page.read_text(),
    )
    monkeypatch.setattr(run_tests, "git", lambda *_: " M docs/testing.md")
    run_tests.record("--all", Counter(passed=8), page)
    assert "8 passed" not in page.read_text()


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
