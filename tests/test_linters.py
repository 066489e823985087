# SPDX-License-Identifier: Apache-2.0
"""The rules of the house as tests. A missing tool is a failure: rules that are not checked do not hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SPDX = "SPDX-License-Identifier: Apache-2.0"
LINES = 500
"""Longest source file."""
FUNCTION_LINES, MEDIAN_LINES = 40, 8
"""Longest function of the package, and the longest median of all."""
FILES = 175
"""Most files of the package, without generated code: each takes a block of flash."""
SOURCES = {
    ".py",
    ".pyi",
    ".sh",
    ".proto",
    ".toml",
    ".yml",
    ".yaml",
    ".bb",
    ".bbappend",
    ".inc",
    ".bbclass",
    ".service",
    ".conf",
    ".c",
    ".md",
}
GENERATED = re.compile(r"_pb2\.pyi?$")
OPENAPI = REPOSITORY / "docs/api.yaml"
"""A table with a line for each member, which tests/test_openapi.py compares with the code."""
RECORDED = REPOSITORY / "tests/vectors"
"""What others' programs printed stands there as it was."""


def tracked() -> list[Path]:
    """Every file of the repository that git knows, or would with the next commit."""
    command = [
        "git",
        "-c",
        f"safe.directory={REPOSITORY}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    out = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    return sorted({path for name in out.split("\0") if name and (path := REPOSITORY / name).is_file()})


def first_lines(path: Path, count: int = 3) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return [file.readline() for _ in range(count)]


def is_script(path: Path) -> bool:
    return path.suffix == "" and first_lines(path, 1)[0].startswith("#!")


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix in SOURCES or is_script(path)]


def is_shell(path: Path) -> bool:
    return path.suffix == ".sh" or (
        is_script(path) and re.search(r"\b(ba|da)?sh\b", first_lines(path, 1)[0]) is not None
    )


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def check(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    check(BIN / "ruff", "check", "--no-cache", ".")


def test_code_is_formatted() -> None:
    check(BIN / "ruff", "format", "--no-cache", "--check", ".")


def test_types_are_strict() -> None:
    check(BIN / "mypy", "--no-error-summary")


def test_rooms_keep_to_their_layers() -> None:
    check(BIN / "lint-imports", "--no-cache")


def test_shellcheck_finds_nothing() -> None:
    scripts = [path for path in tracked() if is_shell(path)]
    assert scripts
    check("shellcheck", "--external-sources", *scripts)


def test_each_source_names_its_licence_at_the_top() -> None:
    assert names([path for path in sources() if not any(SPDX in line for line in first_lines(path))]) == []


def test_no_source_is_longer_than_the_house_allows() -> None:
    def lines(path: Path) -> int:
        return path.read_bytes().count(b"\n")

    own = [path for path in sources() if not GENERATED.search(path.name) and path != OPENAPI]
    assert [
        f"{name}: {lines(path)}" for path, name in zip(own, names(own), strict=True) if lines(path) > LINES
    ] == []


def test_no_function_is_longer_than_a_screen() -> None:
    code = [path for path in sources() if path.is_relative_to(REPOSITORY / "src") and path.suffix == ".py"]
    functions = [
        (path, node, (node.end_lineno or 0) - node.lineno + 1)
        for path in code
        if not GENERATED.search(path.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [f"{path.name}: {node.name}: {n}" for path, node, n in functions if n > FUNCTION_LINES] == []
    assert median(n for _, _, n in functions) <= MEDIAN_LINES


def test_the_package_stays_within_its_size() -> None:
    code = [path for path in (REPOSITORY / "src/pycm").rglob("*.py") if "proto" not in path.parts]
    assert len(code) <= FILES


@pytest.mark.parametrize(
    "pattern", [r"/home/(?!containers/)[a-z]+/", r"/Users/", r"/root/(?!\.)", r"(?<![\w/.}])/work/"]
)
def test_no_file_names_a_place_on_somebodys_machine(pattern: str) -> None:
    kinds = {*SOURCES, ".md", ".json", ".txt", ""}
    own = [path for path in tracked() if path.suffix in kinds and RECORDED not in path.parents]
    own.remove(Path(__file__))
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in own}
    assert names([path for path, text in texts.items() if re.search(pattern, text)]) == []


def test_no_merge_was_left_half_done() -> None:
    mark = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)
    assert names([path for path in tracked() if mark.search(path.read_bytes())]) == []


def test_scripts_are_executable_and_modules_are_not() -> None:
    wrong = [path for path in tracked() if is_script(path) != bool(path.stat().st_mode & 0o100)]
    assert names(wrong) == []


def test_test_files_have_names_of_their_own() -> None:
    """Collect the whole of tests/ at once, as `pytest` without arguments does: two modules of one name cannot be imported."""
    files = [path for path in tracked() if re.fullmatch(r"test_\w+\.py", path.name)]
    seen = [path.name for path in files]
    assert names([path for path in files if seen.count(path.name) > 1]) == []
