# SPDX-License-Identifier: Apache-2.0
"""Check the form of the commits since the last tag, at most 50: docs/style.md, "Commits"."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FIRST = "f3a7ac3"
"""The rule holds for the commits after this one."""
COUNT = 50
SUBJECT = re.compile(r"[a-z][a-z0-9_./-]*(, [a-z][a-z0-9_./-]*)*: (?P<verb>[a-z][a-z-]*) \S.*")
WIDTH = 72
NO_VERB = re.compile(r"(?!need|feed|seed|embed|speed|shed|bring|ping|string|ring|sing)\w+(ed|ing|[^aiosu]s)")
"""First words that are not an imperative: "added", "adding", "adds"."""
TRAILER = re.compile(r"[A-Z][A-Za-z-]+: \S")


def git(repository: Path, *words: str) -> str | None:
    """The output of a git command, None if it fails."""
    command = ["git", "-c", f"safe.directory={repository}", *words]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def messages(repository: Path, first: str = FIRST) -> list[str]:
    """Messages of the commits to check. A clone may be shallow, have no tags, or lack the first commit."""
    bounds = [f"^{first}"] if git(repository, "cat-file", "-e", f"{first}^{{commit}}") is not None else []
    tag = git(repository, "describe", "--tags", "--abbrev=0")
    if tag:
        bounds.append(f"^{tag.strip()}")
    out = git(repository, "log", "--no-merges", f"--max-count={COUNT}", "--format=%B%x00", "HEAD", *bounds)
    assert out is not None, "git log fails"
    return [message.strip() for message in out.split("\0") if message.strip()]


def faults(message: str) -> list[str]:
    subject, _, body = message.partition("\n")
    match = SUBJECT.fullmatch(subject)
    found = []
    if not match:
        found.append("the subject must be `room: imperative phrase`, lower case after the colon")
    elif NO_VERB.fullmatch(match["verb"]):
        found.append(f"{match['verb']!r} is not an imperative")
    if len(subject) > WIDTH:
        found.append(f"the subject has {len(subject)} characters, at most {WIDTH} are allowed")
    if body and body[0] != "\n":
        found.append("the line after the subject must be empty")
    if not [line for line in body.splitlines() if line.strip() and not TRAILER.match(line)]:
        found.append("the body must say why")
    return found


def test_commits_have_the_form_of_the_guide() -> None:
    wrong = [
        f"{message.partition(chr(10))[0]}: {fault}"
        for message in messages(REPOSITORY)
        for fault in faults(message)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("twin: send the state again\n\nThe broker may have lost it.", ""),
        ("logs, metrics: keep descriptors\n\nReading opens nothing.\n\nSigned-off-by: A B <a@b>", ""),
        ("cli: " + "a" * 60 + " b c d\n\nWhy.", ""),
        ("cli: " + "a" * 60 + " b c d e\n\nWhy.", "73 characters"),
        ("Send the state again\n\nWhy.", "room:"),
        ("twin: Send the state again\n\nWhy.", "lower case"),
        ("twin: sends the state again\n\nWhy.", "imperative"),
        ("twin: added a state\n\nWhy.", "imperative"),
        ("twin: pass the state on\n\nWhy.", ""),
        ("twin: send the state again", "body"),
        ("twin: send the state again\n\nSigned-off-by: A B <a@b>", "body"),
        ("twin: send the state again\nWhy.", "must be empty"),
    ],
)
def test_form_of_a_message_is_judged(message: str, fault: str) -> None:
    found = faults(message)
    assert (fault in "\n".join(found)) if fault else not found


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Make a repository of three commits; the second is tagged."""
    place = tmp_path / "history"
    place.mkdir()
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    assert git(place, "init", "-q") is not None
    for number in range(3):
        assert git(place, *identity, "commit", "-q", "--allow-empty", "-m", f"c{number}: do it") is not None
        if number == 1:
            assert git(place, *identity, "tag", "v1") is not None
    return place


def test_commits_are_those_since_the_last_tag(history: Path) -> None:
    assert messages(history) == ["c2: do it"]


def test_commits_of_a_clone_without_tags_are_all_there_are(history: Path) -> None:
    git(history, "tag", "-d", "v1")
    assert messages(history) == ["c2: do it", "c1: do it", "c0: do it"]
    first = (git(history, "rev-parse", "HEAD~2") or "").strip()
    assert messages(history, first) == ["c2: do it", "c1: do it"]


def test_commits_of_a_shallow_clone_are_those_it_has(history: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{history}", "shallow")
    assert messages(tmp_path / "shallow") == ["c2: do it"]
