# SPDX-License-Identifier: Apache-2.0
"""The recorded session of the original, played on our command line: output and exit codes byte for byte.

The commands follow each other on one agent, as they did when they were recorded. Ids are mapped, times and pids masked, and what a
network would give a container is taken from the recording itself.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycm import __version__
from pycm.cli import main
from pycm.errors import NotFoundError
from pycm.model import records
from pycm.model.container import Container
from pycm.model.frozen import replace
from support.fakes import FakeNetwork, FakeRuntime, ImageConfig
from support.served_agent import ServedAgent

RECORDING = Path(__file__).parents[2] / "vectors" / "recorded" / "kanto-cm.txt"
UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r'"\d{4}-\d\d-\d\dT[0-9:.]+Z"')
PID = re.compile(r'"pid": \d+')

#: Recorded commands that are not played, and why.
LEFT_OUT = {
    40: "the restart policy started it between the client's look and its call: test_cli_commands plays that",
    42: "lists a container that no command of the session made: test_cli_table has the same table",
}
#: The recording lost the quotes of an argument.
REPAIRED = {
    "rename 1d1e3210-cc1b-4355-b3a6-7578ead14dab b c": [
        "rename",
        "1d1e3210-cc1b-4355-b3a6-7578ead14dab",
        "b c",
    ]
}
#: Where pycm deviates on purpose: the specification marks these as defects of the original.
FIXED = {
    "create -n x --rp never registry.test/demo/app:1.0": (
        "Error: unsupported restart policy type never\n",
        1,
    ),
}


class Step:
    def __init__(self, number: int, command: str, output: str, code: int) -> None:
        self.number, self.command = number, command
        self.output, self.code = FIXED.get(command, (output, code))
        self.argv = REPAIRED.get(command) or shlex.split(command)


def recorded() -> list[Step]:
    text = RECORDING.read_text()
    found = re.findall(r"\$ kanto-cm (.*)\n((?:.*\n)*?)\(exit (\d+)\)\n", text)
    steps = [Step(i, command, output, int(code)) for i, (command, output, code) in enumerate(found)]
    assert len(steps) == text.count("(exit ")
    return steps


class RecordedNetwork(FakeNetwork):
    """Gives a container the addresses and paths that the recording shows for its name."""

    def __init__(self, steps: list[Step]) -> None:
        shown = [records.decode(Container, json.loads(s.output)) for s in steps if s.output.startswith("{")]
        self.containers = {container.name: container for container in shown}

    async def connect(self, container: Container) -> Container:
        shown = self.containers.get(container.name)
        if shown is None:  # renamed meanwhile, and not shown again
            return container
        recorded_id, fields = shown.id, ("resolv_conf_path", "hosts_path", "hostname_path")
        paths = {field: getattr(shown, field).replace(recorded_id, container.id) for field in fields}
        return replace(container, host_name=shown.host_name, network_settings=shown.network_settings, **paths)


class PullingRuntime(FakeRuntime):
    async def image(self, reference: str, container_id: str = "") -> ImageConfig:
        if reference == "invalid":
            raise NotFoundError('failed to resolve reference "invalid": object required')
        return await super().image(reference)


@pytest.fixture
def steps() -> list[Step]:
    return recorded()


@pytest.fixture
def agent(steps: list[Step], tmp_path: Path) -> Iterator[ServedAgent]:
    with ServedAgent(str(tmp_path / "s"), runtime=PullingRuntime(), network=RecordedNetwork(steps)) as served:
        yield served


def masked(text: str) -> str:
    text = re.sub(r"^(Engine|CLI) v1\.0\.0", rf"\1 v{__version__}", text, flags=re.MULTILINE)
    return PID.sub('"pid": PID', TIME.sub('"TIME"', text))


def test_the_recorded_session_plays_byte_for_byte(
    steps: list[Step], agent: ServedAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    ours: dict[str, str] = {}  # recorded id to ours

    def mapped(text: str) -> str:
        return UUID.sub(lambda match: ours.get(match.group(), match.group()), text)

    differing = []
    for step in steps:
        if step.number in LEFT_OUT:
            continue
        code = main.run("kanto-cm", ["--host", agent.path, *map(mapped, step.argv)])
        out, err = capsys.readouterr()
        if step.argv[0] == "create" and UUID.fullmatch(step.output.strip()) and UUID.fullmatch(out.strip()):
            ours[step.output.strip()] = out.strip()
        expected = "" if step.code else step.output, step.output if step.code else "", step.code
        if (masked(out), masked(err), code) != (
            masked(mapped(expected[0])),
            masked(mapped(expected[1])),
            expected[2],
        ):
            differing.append(
                f"{step.number}: {step.command}\n  wanted {expected!r}\n  got    {(out, err, code)!r}"
            )
    assert not differing, "\n".join(differing)


def test_the_steps_left_out_are_the_ones_meant(steps: list[Step]) -> None:
    assert len(steps) == 43
    assert steps[40].command == "start 1d1e3210-cc1b-4355-b3a6-7578ead14dab"
    assert "b1de705f-150b-4efc-bb74-e6b74b814037" in steps[42].output
