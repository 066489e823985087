# SPDX-License-Identifier: Apache-2.0
"""The workflow files: valid by the schema of GitHub, tidy, and about files, scripts and releases that exist."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from kas_support import BUILT_BY_USERS, OVERLAYS
from layer_support import RELEASES, REPOSITORY, run

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
RULES = """
extends: default
rules:
  line-length: {max: 140}
  document-start: disable
  braces: {max-spaces-inside: 0}
  comments: {min-spaces-from-content: 2}
"""


@pytest.fixture(scope="module")
def jobs(tools: Path) -> dict[str, dict[str, Any]]:
    code = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(name)) for name in sys.argv[1:]]))"
    loaded = json.loads(run(tools / "python", "-c", code, *WORKFLOWS))
    return {name: job for workflow in loaded for name, job in workflow["jobs"].items()}


def matrix(job: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = job["strategy"]["matrix"]["include"]
    return found


def test_workflows_are_valid_and_tidy(tools: Path) -> None:
    assert WORKFLOWS
    run(tools / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    run(tools / "yamllint", "--strict", "-d", RULES, *WORKFLOWS)


def test_workflows_call_scripts_and_kas_files_that_exist(jobs: dict[str, dict[str, Any]]) -> None:
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    scripts = {name for command in commands for name in re.findall(r"\bscripts/[\w-]+", command)}
    assert scripts == {"scripts/yocto-check-layer", "scripts/test"}
    assert all((REPOSITORY / name).is_file() for name in scripts)
    text = "".join(path.read_text() for path in WORKFLOWS)
    files = set(re.findall(r"\bkas[\w-]*(?:\.lock)?\.yml\b", text))
    assert all((REPOSITORY / name).is_file() for name in files)


def test_workflows_cover_all_kas_files_and_releases(jobs: dict[str, dict[str, Any]]) -> None:
    dumped = {name for files in jobs["kas"]["strategy"]["matrix"]["file"] for name in files.split(":")}
    dumped |= set(re.findall(r"kas-pycm-overlay\.yml", json.dumps(jobs["overlay"])))
    assert dumped == {*BUILT_BY_USERS, *OVERLAYS}
    releases = [release.name for release in RELEASES]
    for job in ("check-layer", "packages"):
        assert [entry["release"] for entry in matrix(jobs[job])] == releases


def test_workflows_use_the_kas_of_the_tests(tools: Path) -> None:
    version = run(
        tools / "python", "-c", "from kas.__version__ import __version__; print(__version__)"
    ).strip()
    assert all(f"KAS: kas=={version}\n" in path.read_text() for path in WORKFLOWS)


def test_workflow_selects_the_test_that_builds_packages(jobs: dict[str, dict[str, Any]]) -> None:
    selected = re.search(r'-k "(\w+) and', json.dumps(jobs["packages"]).replace("\\", ""))
    assert selected
    assert f"def test_{selected[1]}" in (REPOSITORY / "tests/yocto/test_yocto_build.py").read_text()


def test_jobs_in_a_container_name_the_checkout_as_it_is_in_there(jobs: dict[str, dict[str, Any]]) -> None:
    """`${{ github.workspace }}` is a directory of the machine outside; GITHUB_WORKSPACE is right on both."""
    inside = [json.dumps(job) for job in jobs.values() if "container" in job]
    assert inside
    assert not any("${{ github.workspace" in job for job in inside)
    assert all("KAS_WORK_DIR=$GITHUB_WORKSPACE/layers" in job for job in inside)


def test_every_job_that_runs_bitbake_makes_its_locale(jobs: dict[str, dict[str, Any]]) -> None:
    for name in ("check-layer", "packages"):
        assert re.search(r"en_US\.UTF-8.*locale-gen|locale-gen en_US\.UTF-8", json.dumps(jobs[name])), name
