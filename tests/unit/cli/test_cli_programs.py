# SPDX-License-Identifier: Apache-2.0
"""The programs as processes of their own: what they import, and output that cannot be written."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.served_agent import ServedAgent

#: Slow to import, or a sign that something slow was.
HEAVY = {
    "argparse", "asyncio", "concurrent.futures", "cgroupspy", "google.protobuf", "grpclib", "h11", "h2", "hpack", "http", "paho",
    "psutil", "socket", "ssl", "pycm.agent", "pycm.containers", "pycm.containerd",
}  # fmt: skip
#: Not for help either.
SLOW = {"dataclasses", "json", "logging", "typing", "pycm.model.container"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAgent]:
    with ServedAgent(str(tmp_path_factory.mktemp("agent") / "s")) as served:
        yield served


def program(
    *argv: str, name: str = "kanto_cm", after: str = "pass", **options
) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from pycm.cli.main import {name}; code = {name}(); {after}; sys.exit(code)"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def imported(*argv: str) -> set[str]:
    """What this command line imports beyond a Python that does nothing."""
    show = "import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    with_command = json.loads(program(*argv, name="pycm", after=show).stderr)
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(with_command) - set(bare.stdout.split())


def test_help_imports_nothing_slow() -> None:
    found = imported("--help") - {"json"}  # what the test itself asks with
    assert not found & HEAVY
    assert not found & (SLOW - {"json"})
    assert len([name for name in found if name.startswith("pycm")]) < 10


def test_list_imports_no_event_loop_and_no_model(agent: ServedAgent) -> None:
    found = imported("--host", agent.path, "list")
    assert "pycm.cli.client" in found
    assert not found & HEAVY
    assert not found & {"dataclasses", "pycm.model.container", "pycm.api.server"}


def test_output_is_utf8_in_any_locale(agent: ServedAgent) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = program("--host", agent.path, "get", "-n", "ä…", env=environment)
    assert result.returncode == 1
    assert "name = ä… was not found" in result.stderr


def test_a_full_disk_is_an_error_in_one_line(agent: ServedAgent) -> None:
    with Path("/dev/full").open("w") as full:
        result = program("--host", agent.path, "list", stdout=full)
    assert result.returncode == 1
    assert result.stderr == "Error: cannot write the output: No space left on device\n"


def test_a_reader_that_goes_away_is_no_error_to_talk_about(agent: ServedAgent) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        result = program("--host", agent.path, "list", stdout=write)
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (1, "")


def test_closed_output_is_no_crash(agent: ServedAgent) -> None:
    code = "import os; os.close(1); os.execv(os.sys.executable, [os.sys.executable, *os.sys.argv[1:]])"
    inner = "import sys; from pycm.cli.main import pycm; sys.exit(pycm())"
    result = subprocess.run(
        [sys.executable, "-c", code, "-c", inner, "--host", agent.path, "list"],
        stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


SCRIPT = "#!{}\nimport sys\nfrom pycm.cli.main import pycm\nsys.exit(pycm())\n"
"""As a wheel's installer writes it."""


@pytest.mark.parametrize(("name", "acts_as"), [("kanto-cm", "kanto-cm"), ("pycm", "pycm"), ("other", "pycm")])
def test_program_acts_as_the_name_of_the_link_it_is_called_by(
    tmp_path: Path, name: str, acts_as: str
) -> None:
    script = tmp_path / "pycm-script"
    script.write_text(SCRIPT.format(sys.executable))
    script.chmod(0o755)
    (tmp_path / name).symlink_to(script.name)
    shown = subprocess.run([tmp_path / name, "--help"], capture_output=True, text=True, check=True)
    assert f"\n  {acts_as} [command]" in shown.stdout
    wrong = subprocess.run([tmp_path / name, "lst"], capture_output=True, text=True, check=False)
    assert f'unknown command "lst" for "{acts_as}"' in wrong.stderr
    assert wrong.returncode == (1 if acts_as == "kanto-cm" else 2)


def test_errors_go_to_stderr_and_leave_stdout_clean(agent: ServedAgent) -> None:
    result = program("--host", agent.path, "get", "nope")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Error: The requested container with ID = nope was not found.\n"


ALL_HELP = """
from pycm.cli import main
codes = {main.run("kanto-cm", words) for words in (["--help"], *([name, "--help"] for name in main.KANTO_COMMANDS))}
codes |= {main.run("pycm", words) for words in (["--help"], *([name, "--help"] for name in main.commands("pycm")))}
codes |= {main.run("pycm", ["daemon", "--help"])}
assert codes == {0}
"""


def test_help_is_the_same_in_byte_code_without_docstrings_and_asserts() -> None:
    plain, stripped = (
        subprocess.run([sys.executable, *level, "-c", ALL_HELP], capture_output=True, text=True, check=False)
        for level in ([], ["-OO"])
    )
    assert (plain.returncode, plain.stderr, plain.stdout.count("Usage:")) == (0, "", 36)
    assert (stripped.returncode, stripped.stderr, stripped.stdout) == (0, "", plain.stdout)


OLD_AGENT = """
import asyncio, sys
from grpclib.server import Server
async def serve():
    server = Server([])
    await server.start(path=sys.argv[1])
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(serve())
"""


@pytest.fixture
def old_agent(tmp_path: Path) -> Iterator[str]:
    """The gRPC library that agents without the JSON API serve with: the original's behaves the same."""
    path = str(tmp_path / "old")
    process = subprocess.Popen([sys.executable, "-c", OLD_AGENT, path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield path
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("name", "code"), [("pycm", 3), ("kanto_cm", 1)])
def test_an_agent_without_json_is_recognised_at_once(old_agent: str, name: str, code: int) -> None:
    result = program("--host", old_agent, "--timeout", "3600", "list", name=name)
    error = f"Error: the agent at {old_agent} has no JSON API: it does not speak HTTP/1.1\n"
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith(error)
    assert result.stderr.count("hint: ") == (name == "pycm")
