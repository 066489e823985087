# SPDX-License-Identifier: Apache-2.0
"""Pulls that are shared, given up and ended with the agent; workers that misbehave."""

import asyncio
import compileall
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pycm
from pycm.errors import NotFoundError, OperationFailedError, PycmError, UnavailableError
from pycm.ports import PullProgress, PullStep
from pycm.registry import workers
from pycm.registry.job import Job, News
from pycm.registry.workers import Pulls, Workers
from support.waiting import until

JOB = Job("/s", "ns", "overlayfs", "lease", "r.test/a:1")


class Work:
    """Pulls that go on until a test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.go = asyncio.Event()
        self.fail: PycmError | None = None
        self.tell: Callable[[PullProgress], None] = lambda _: None

    async def __call__(self, reference: str, tell: Callable[[PullProgress], None]) -> None:
        self.begun.append(reference)
        self.tell = tell
        try:
            await self.go.wait()
            if self.fail:
                raise self.fail
        finally:
            await asyncio.sleep(0.01)  # a worker does not end at once
            self.ended.append(reference)


async def waits(pulls: Pulls, count: int, name: str = "a") -> list["asyncio.Task[None]"]:
    """Callers that all wait for one pull, which has begun its work."""
    tasks = [asyncio.ensure_future(pulls.pull(name)) for _ in range(count)]
    await until(lambda: name in pulls._running and pulls._running[name].waiting == count)
    await asyncio.sleep(0)  # the pull's own task has run
    return tasks


async def test_whoever_asks_for_the_same_shares_one_pull() -> None:
    work = Work()
    pulls = Pulls(work)
    tasks = await waits(pulls, 3)
    tasks[0].cancel()  # that one caller goes away ends nothing
    await asyncio.gather(tasks[0], return_exceptions=True)
    work.go.set()
    await asyncio.gather(*tasks[1:])
    assert (work.begun, work.ended) == (["a"], ["a"])
    await pulls.pull("a")
    assert work.begun == ["a", "a"]  # a later one is another one


async def test_a_failure_reaches_everybody() -> None:
    work = Work()
    work.fail = NotFoundError("not there")
    tasks = await waits(Pulls(work), 2)
    work.go.set()
    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["not there"] * 2


async def test_a_pull_that_nobody_waits_for_ends_and_a_new_caller_begins_anew() -> None:
    work = Work()
    pulls = Pulls(work)
    tasks = await waits(pulls, 2)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    again = asyncio.ensure_future(pulls.pull("a"))
    await until(lambda: len(work.begun) == 2)
    assert (work.begun, work.ended) == (["a", "a"], ["a"])
    work.go.set()
    await again


async def test_a_latecomer_hears_at_once_how_far_it_is() -> None:
    work = Work()
    pulls = Pulls(work)
    first = await waits(pulls, 1)
    step = PullProgress("a", PullStep.DOWNLOADING, 1, 2)
    work.tell(step)
    heard: list[PullProgress] = []
    second = asyncio.ensure_future(pulls.pull("a", heard.append))
    await asyncio.sleep(0)
    assert heard == [step]
    work.go.set()
    await asyncio.gather(*first, second)


async def test_the_agents_end_is_an_error_for_those_who_wait() -> None:
    work = Work()
    pulls = Pulls(work)
    tasks = await waits(pulls, 2)
    await pulls.close()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(found, UnavailableError)
        assert "the agent is stopping" in str(found)
    with pytest.raises(UnavailableError):
        await pulls.pull("b")
    assert work.begun == ["a"]


# ── workers ──

TRAPS = ("hashlib", "json", "resource", "grpclib", "h2", "socket", "sitecustomize", "usercustomize")


def lay_traps(directory: Path) -> Path:
    """Modules of well-known names that leave a mark when they are imported; the mark."""
    mark = directory.parent / "imported"
    directory.mkdir(parents=True)
    for name in TRAPS:
        (directory / f"{name}.py").write_text(
            f"open({str(mark)!r}, 'a').write('{name} ')\nraise ImportError\n"
        )
    return mark


def where_nobody_listens(tmp_path: Path) -> Job:
    return Job(str(tmp_path / "no.sock"), "ns", "overlayfs", "lease", "r.test/a:1")


@pytest.mark.parametrize("how", ["cwd", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONHOME", "PYTHONSTARTUP"])
async def test_worker_imports_nothing_from_cwd_or_environment(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place = tmp_path / {"PYTHONUSERBASE": f"lib/{python}/site-packages", "PYTHONHOME": f"lib/{python}"}.get(
        how, "traps"
    )
    mark = lay_traps(place)
    if how == "cwd":
        monkeypatch.chdir(place)
        monkeypatch.setenv("PYTHONPATH", "")  # an empty entry means the working directory, too
    elif how == "PYTHONSTARTUP":
        monkeypatch.setenv(how, str(place / "json.py"))
    else:
        monkeypatch.setenv(how, str(tmp_path if "lib" in str(place) else place))
    with pytest.raises(UnavailableError, match=r"no\.sock does not answer"):
        await Workers().run(where_nobody_listens(tmp_path), lambda _: None)
    assert not mark.exists()


TELL_ORIGINS = """
import hashlib, json, os, pycm.errors
def main():
    print(json.dumps({"step": "done", "images": [pycm.errors.__file__, hashlib.__file__]}))
"""
AGENT = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import pycm
del sys.path[0]
from pycm.registry.job import Job
from pycm.registry.workers import Workers
print(*asyncio.run(Workers().run(Job("/s", "n", "o", "l"), print)).images)
"""


@pytest.mark.parametrize("form", ["source", "sourceless"])
def test_worker_finds_pycm_where_the_agent_has_it(form: str, tmp_path: Path) -> None:
    """Here the agent knows pycm by its path only, as it does an unpacked tree or a user's site directory."""
    site = tmp_path / "site"
    shutil.copytree(Path(pycm.__file__).parent, site / "pycm", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "pycm" / "registry" / "worker.py").write_text(TELL_ORIGINS)
    if form == "sourceless":
        compileall.compile_dir(site, quiet=2, legacy=True)
        for source in site.rglob("*.py"):
            source.unlink()
    (site / "hashlib.py").write_text(
        "raise SystemExit(9)\n"
    )  # beside the package: the standard library comes first
    command = [sys.executable, "-c", AGENT, str(site)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    of_pycm, of_hashlib = done.stdout.split()
    assert of_pycm.startswith(str(site / "pycm" / "errors.py"))
    assert not of_hashlib.startswith(str(site))


@pytest.mark.parametrize("module", ["io", "logging", "signal"])
def test_python_m_pycm_imports_nothing_from_cwd(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit(9)\n")
    command = [sys.executable, "-m", "pycm", "daemon", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs instead of a worker: a shell script."""

    def do(script: str) -> None:
        path = tmp_path / "worker"
        path.write_text(f"#!/bin/sh\nread job\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return do


DONE = '{"step": "done", "images": ["a"]}'


async def test_news_are_told_and_the_last_one_is_the_result(worker: Callable[[str], None]) -> None:
    worker(f"""echo '{{"step": "downloading", "done": 1, "total": 2}}'; echo '{DONE}'""")
    told: list[News] = []
    assert await Workers().run(JOB, told.append) == News("done", images=("a",))
    assert told == [News("downloading", 1, 2)]


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ("exit 3", OperationFailedError, "ended without a result (exit code 3)"),
        ("kill -9 $$", UnavailableError, "was killed"),
        ('printf \'{"step": "do\'; kill -9 $$', UnavailableError, "was killed"),
        ("echo hello; exec sleep 1000", OperationFailedError, "malformed output"),
        ("echo '[]'; exec sleep 1000", OperationFailedError, "malformed output"),
        ("echo '{}'; exec sleep 1000", OperationFailedError, "malformed output"),
        ('echo \'{"step": "dancing"}\'; exec sleep 1000', OperationFailedError, "malformed output"),
        (
            'echo \'{"step": "done", "done": 1e999}\'; exec sleep 1000',
            OperationFailedError,
            "malformed output",
        ),
        (
            "head -c 60000 /dev/zero | tr '\\0' '['; echo; exec sleep 1000",
            OperationFailedError,
            "malformed output",
        ),
        ("head -c 200000 /dev/zero; exec sleep 1000", OperationFailedError, "malformed output"),
        ('echo \'{"error": "NotFoundError", "text": "gone"}\'', NotFoundError, "gone"),
        ('echo \'{"error": "SystemExit", "text": "x"}\'', OperationFailedError, "x"),
    ],
)
async def test_a_worker_that_misbehaves_is_one_clear_error_and_ended(
    worker: Callable[[str], None], script: str, kind: type[PycmError], words: str
) -> None:
    worker(script)
    with pytest.raises(kind, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        await Workers().run(JOB, lambda _: None)
    assert kind in (type(caught.value), type(caught.value).__base__)


async def test_a_silent_worker_is_ended(
    worker: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE", 0.1)
    worker("exec sleep 1000")
    with pytest.raises(OperationFailedError, match="gave no sign"):
        await Workers().run(JOB, lambda _: None)


async def test_a_program_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OperationFailedError, match="cannot start a pull worker: No such file"):
        await Workers().run(JOB, lambda _: None)


async def test_some_run_at_a_time_and_the_others_are_told_to_wait(
    worker: Callable[[str], None], tmp_path: Path
) -> None:
    worker(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo '{DONE}'")
    pool = Workers()
    told: list[News] = []
    tasks = [asyncio.ensure_future(pool.run(JOB, told.append)) for _ in range(workers.PARALLEL + 1)]
    await until(lambda: told)
    (tmp_path / "go").touch()
    await asyncio.gather(*tasks)
    assert told == [News("queued")]


async def test_a_cancelled_job_ends_its_worker(worker: Callable[[str], None], tmp_path: Path) -> None:
    worker(f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 1000")
    task = asyncio.ensure_future(Workers().run(JOB, lambda _: None))
    await until((tmp_path / "pid").exists)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
