# SPDX-License-Identifier: Apache-2.0
"""The command line against a served agent; what a test created is removed after it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pycm.cli import main
from support.command_line import Cli, Result
from support.fakes import IMAGE
from support.served_agent import ServedAgent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAgent]:
    with ServedAgent(str(tmp_path_factory.mktemp("agent") / "s")) as served:
        yield served


@pytest.fixture
def cli(agent: ServedAgent, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    def call(*argv: str) -> Result:
        code = main.run("kanto-cm", ["--host", agent.path, *argv])
        return Result(code, *capsys.readouterr())

    yield call
    for container in agent.manager.list():
        agent.run(agent.manager.remove(container.id, force=True))


@pytest.fixture
def own(agent: ServedAgent, cli: Cli, capsys: pytest.CaptureFixture[str]) -> Cli:
    """As `cli`, by the name of pycm."""

    def call(*argv: str) -> Result:
        code = main.run("pycm", ["--host", agent.path, *argv])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def make(cli: Cli) -> Callable[..., str]:
    def create(*argv: str) -> str:
        result = cli("create", "--network", "host", *argv, IMAGE)
        assert result.code == 0, result.err
        return result.out.strip()

    return create


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Of a socket to be."""
    return str(tmp_path / "s")
