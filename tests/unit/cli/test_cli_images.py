# SPDX-License-Identifier: Apache-2.0
"""`image` and `pull`: what is printed, exit codes, what is refused without the agent."""

import json
import sys

import pytest

from pycm.errors import NotFoundError
from pycm.ports import ImageInfo, PullProgress, PullStep
from support.command_line import Cli, Result
from support.fakes import IMAGE
from support.served_agent import ServedAgent

NAME = "registry.test/app:1"
DIGEST = "sha256:" + "1" * 64


def test_images_are_listed_as_a_table_and_as_json(agent: ServedAgent, own: Cli) -> None:
    agent.images.images[NAME] = ImageInfo(NAME, DIGEST, 5 << 20, "2026-01-02T03:04:05.25Z", ("c1", "c2"))
    assert own("image", "list").out == (
        "IMAGE                DIGEST                SIZE  CREATED               CONTAINERS\n"
        "registry.test/app:1  sha256:111111111111  5 MiB  2026-01-02T03:04:05Z           2\n"
    )
    assert json.loads(own("image", "list", "--format", "json").out) == [
        {
            "reference": NAME,
            "digest": DIGEST,
            "size_bytes": 5 << 20,
            "created": "2026-01-02T03:04:05.25Z",
            "container_ids": ["c1", "c2"],
        }
    ]


def test_pull_prints_digests(agent: ServedAgent, own: Cli) -> None:
    agent.images.steps = [PullProgress(NAME, PullStep.DOWNLOADING, 1, 2)]
    assert own("pull", NAME, "registry.test/b:1") == (0, f"{DIGEST}\n{DIGEST}\n", "")
    assert own("image", "pull", NAME).out == f"{DIGEST}\n"


def test_pull_as_json_tells_each_step(agent: ServedAgent, own: Cli) -> None:
    agent.images.steps = [PullProgress(NAME, PullStep.DOWNLOADING, 1, 2)]
    lines = [json.loads(line) for line in own("pull", "--format", "json", NAME).out.splitlines()]
    assert lines[-1] == {"reference": NAME, "step": "done", "done": 0, "total": 0, "digest": DIGEST}


def test_pull_that_fails_is_one_line_and_the_exit_code_of_its_kind(agent: ServedAgent, own: Cli) -> None:
    agent.images.fail = NotFoundError("no such tag")
    assert own("pull", NAME) == (4, "", "Error: no such tag\n")
    agent.images.fail = None


def test_remove_goes_on_after_one_that_fails(agent: ServedAgent, own: Cli) -> None:
    agent.images.images = {
        "x/a:1": ImageInfo("x/a:1", DIGEST, 1, "", ("c1",)),
        "x/b:1": ImageInfo("x/b:1", DIGEST, 1, ""),
    }
    assert own("image", "remove", "x/a:1", "x/b:1") == (5, "", "Error: image x/a:1 is in use\n")
    assert list(agent.images.images) == ["x/a:1"]


def test_prune_prints_what_went(agent: ServedAgent, own: Cli) -> None:
    agent.images.images = {"x/b:1": ImageInfo("x/b:1", DIGEST, 1, "")}
    assert own("image", "prune") == (0, "x/b:1\n", "")
    assert own("image", "prune", "--format", "json") == (0, "[]\n", "")


@pytest.fixture
def on_terminal(own: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """As `own`, where stderr is a terminal."""

    def call(*argv: str) -> Result:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        return own(*argv)

    return call


STEPS = [PullProgress(IMAGE, PullStep.DOWNLOADING, 1, 2)]
CREATE = ("create", "--network", "host", IMAGE)


def test_create_shows_the_pull_of_a_missing_image_on_a_terminal(agent: ServedAgent, on_terminal: Cli) -> None:
    agent.images.images, agent.images.steps, agent.images.fail = {}, STEPS, None
    code, out, err = on_terminal(*CREATE)
    assert (code, out.count("\n")) == (0, 1)
    assert out.strip() in [container.id for container in agent.manager.list()]
    assert f"{IMAGE}: downloading 50 % of 2 B" in err
    assert err.endswith("\r\x1b[K")
    assert list(agent.images.images) == [IMAGE]


def test_create_pulls_no_image_that_is_here(agent: ServedAgent, on_terminal: Cli) -> None:
    agent.images.images, agent.images.steps = {IMAGE: ImageInfo(IMAGE, DIGEST, 1, "")}, STEPS
    code, _, err = on_terminal(*CREATE)
    assert (code, err) == (0, "")


def test_create_shows_no_pull_where_there_is_no_terminal(agent: ServedAgent, own: Cli) -> None:
    agent.images.images, agent.images.steps = {}, STEPS
    code, _, err = own(*CREATE)
    assert (code, err) == (0, "")
    assert agent.images.images == {}


def test_create_whose_pull_fails_says_what_create_says(agent: ServedAgent, on_terminal: Cli) -> None:
    agent.images.images, agent.images.steps, agent.images.fail = {}, STEPS, NotFoundError("no such tag")
    try:
        code, out, err = on_terminal(*CREATE)
    finally:
        agent.images.fail = None
    assert (code, out) == (4, "")
    assert err.endswith("\nError: no such tag\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("image",), "image needs an action: list, pull, remove, prune"),
        (("image", "rm", "x"), 'image has the actions list, pull, remove, prune, got "rm"'),
        (("image", "remove"), "name at least one image to remove"),
        (("image", "prune", "x"), 'image prune accepts no arguments, got "x"'),
        (("pull",), "name at least one image to pull"),
    ],
)
def test_bad_lines_are_refused(own: Cli, words: tuple[str, ...], text: str) -> None:
    assert own(*words) == (2, "", f"Error: {text}\n")
