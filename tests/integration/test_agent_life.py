# SPDX-License-Identifier: Apache-2.0
"""The agent on a real containerd: containers that outlive it, and output of which nothing is lost."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from images import IMAGE

from pycm.agent import WORKERS
from pycm.storage.mounts import system_call, unmount

pytestmark = pytest.mark.integration

MS_BIND, MS_SHARED = 0x1000, 0x100000
#: Numbers, one every 20 ms; ends with 143 on TERM.
COUNTER = "trap 'exit 143' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done"
#: The agent, which is asked to end before it has started.
INTERRUPTED = """\
import os, signal, sys
from pycm import agent
from pycm.cli.main import pycm
start = agent.Agent.start
async def interrupted(self):
    os.kill(os.getpid(), signal.SIGTERM)
    await start(self)
agent.Agent.start = interrupted
sys.exit(pycm())
"""
FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"


def run(agent: AgentProcess, script: str, *flags: str, name: str = "") -> str:
    return agent.run_container(IMAGE, "/bin/sh", "-c", script, name=name, flags=flags)


def test_a_container_lives_its_life_on_the_command_line(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    agent.cm("create", "--network", "host", "--rp", "no", "-n", "a", IMAGE, "/bin/sh", "-c", FOREVER)
    assert agent.cm("list", "-q", "-n", "a") == agent.ids()[0]
    (container_id,) = agent.ids()
    agent.cm("start", "-n", "a")
    state = agent.state(container_id)
    assert (state["running"], state["status"]) == (True, 2)
    assert str(state["pid"]) in containerd.ctr("tasks", "ls")
    assert "Running" in agent.cm("list")
    agent.cm("pause", container_id)
    assert "PAUSED" in containerd.ctr("tasks", "ls")
    agent.cm("unpause", container_id)
    agent.cm("rename", container_id, "b")
    agent.cm("update", "-n", "b", "-m", "64M")
    agent.cm("stop", "-n", "b")
    state = agent.state(container_id)
    assert (state["status"], state["exit_code"], state["pid"]) == (3, 143, -1)
    agent.cm("start", "-n", "b")
    agent.cm("remove", "-f", "-n", "b")
    assert agent.ids() == []
    assert container_id not in containerd.ctr("snapshots", "ls") + containerd.ctr("containers", "ls")
    assert not (agent.home / "containers" / container_id).exists()
    assert not list((agent.run / "fifo").rglob("*std*"))


def test_an_exit_is_seen_with_its_code_and_the_output_is_all_there(agent: AgentProcess) -> None:
    container_id = run(agent, "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done; echo err >&2; exit 7")
    state = agent.wait_for(container_id, status=5)
    assert (state["exit_code"], state["exited"], state["oomKilled"]) == (7, True, False)
    wait_until(lambda: len(agent.logged(container_id)) == 501, 10, "all lines are logged")
    assert [line for line in agent.logged(container_id) if line != "err"] == [str(i) for i in range(500)]


def test_logs_are_read_back_over_all_files(agent: AgentProcess) -> None:
    flags = ("--log-max-size", "4k", "--log-max-files", "50")
    container_id = run(agent, "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done", *flags)
    agent.wait_for(container_id, status=5)
    assert len(list((agent.home / "containers" / container_id).glob("json.log.*"))) > 3
    for tail, first in (("300", 200), ("-1", 0)):
        found = [json.loads(line)["log"] for line in agent.cm("logs", "-t", tail, container_id).splitlines()]
        assert found == [f"{number}\n" for number in range(first, 500)]


def test_three_ends_of_the_agent_neither_stop_a_container_nor_cost_a_line(agent: AgentProcess) -> None:
    container_id = run(agent, COUNTER, "--log-max-size", "4k", "--log-max-files", "200")
    before = agent.state(container_id)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        lines = len(agent.logged(container_id))
        wait_until(lambda: len(agent.logged(container_id)) > lines + 20, 20, "the log grows")  # noqa: B023
        agent.end(number)
        agent.start()
        after = agent.state(container_id)
        assert (after["pid"], after["started_at"]) == (before["pid"], before["started_at"])
    agent.cm("stop", container_id)
    logged = agent.logged(container_id)
    assert logged == [f"line {n}" for n in range(1, len(logged) + 1)]
    assert len(logged) > 80


def test_sighup_ends_the_agent_and_leaves_containers(agent: AgentProcess) -> None:
    container_id = run(agent, FOREVER)
    pid = agent.state(container_id)["pid"]
    assert agent.end(signal.SIGHUP) == 0
    assert not agent.socket.exists()
    agent.start()
    assert agent.state(container_id)["pid"] == pid


def test_an_end_while_no_agent_runs_is_found_with_its_code_and_last_words(
    agent: AgentProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    script = "echo first; while [ ! -e /gate/open ]; do sleep 0.05; done; echo last; exit 9"
    container_id = run(agent, script, "--mp", f"{gate}:/gate")
    pid = agent.state(container_id)["pid"]
    agent.kill()
    (gate / "open").touch()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "the container ends")
    agent.start()
    state = agent.wait_for(container_id, status=5)
    assert state["exit_code"] == 9
    wait_until(lambda: agent.logged(container_id) == ["first", "last"], 10, "both lines are logged")


def test_without_live_restore_the_agent_takes_its_containers_along(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd, manager="live_restore = false") as agent:
        ids = [agent.cm("create", "--network", "host", IMAGE, "/bin/sh", "-c", FOREVER) for _ in range(3)]
        for container_id in ids:
            agent.cm("start", container_id)
        assert agent.end() == 0
        assert not any(container_id in containerd.ctr("tasks", "ls") for container_id in ids)
        agent.start()
        for container_id in ids:
            agent.wait_for(container_id, running=True)


def test_a_signal_while_the_agent_starts_ends_it_in_order(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd, manager="live_restore = false") as agent:
        container_id = run(agent, FOREVER)
        agent.kill()
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, "daemon", "--cfg-file", str(agent.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "agent ends: SIGTERM" in done.stdout
        assert container_id not in containerd.ctr("tasks", "ls")
        agent.start()
        assert agent.state(container_id)["exit_code"] == 143


def test_containerd_killed_and_back_an_exit_in_between_is_not_missed(
    agent: AgentProcess, containerd: ContainerdServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    script = "while [ ! -e /gate/open ]; do sleep 0.05; done; exit 9"
    ends = run(agent, script, "--mp", f"{gate}:/gate")
    stays = run(agent, FOREVER)
    pid = agent.state(stays)["pid"]
    ending = agent.state(ends)["pid"]
    containerd.kill()
    (gate / "open").touch()
    wait_until(lambda: not Path(f"/proc/{ending}").exists(), 20, "the container ends")
    assert len(agent.ids()) == 2
    containerd.start()
    assert agent.wait_for(ends, status=5)["exit_code"] == 9
    assert agent.state(stays)["pid"] == pid
    agent.cm("stop", stays)


def test_a_container_out_of_memory_says_so(agent: AgentProcess) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=64M"
    container_id = run(agent, script, "-m", "8M")
    state = agent.wait_for(container_id, status=5)
    assert (state["oomKilled"], state["error"], state["exit_code"]) == (True, "OOM Killed", 137)


# ── files that hang ──


@contextlib.contextmanager
def hung_mount(path: Path, mode: int) -> Iterator[None]:
    """A mount point that never answers, as a network file system whose server is away: FUSE without a file system behind it."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={mode:o},user_id=0,group_id=0"
    system_call("mount", b"pycm-test", str(path).encode(), b"fuse", 0, options.encode())
    try:
        yield
    finally:
        os.close(device)  # what hangs ends with an error
        unmount(str(path))


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "hanging"
    path.mkdir()
    with hung_mount(path, stat.S_IFDIR):
        yield path


def test_start_of_a_container_names_a_mount_source_that_hangs_and_the_agent_ends(
    agent: AgentProcess, hanging: Path
) -> None:
    """More of them than the agent has worker threads; other containers start all the same, and so does the next attempt end."""
    flags = ("--network", "host", "--rp", "no", "--mp", f"{hanging}:/m")
    ids = [agent.cm("create", *flags, IMAGE, "/bin/sh", "-c", FOREVER) for _ in range(5)]
    started = [
        subprocess.Popen(agent.command("start", each), stderr=subprocess.PIPE, text=True) for each in ids
    ]
    container_id = run(agent, FOREVER)
    for process in started:
        assert "a mount source, hook or device of the container does not answer" in process.communicate()[1]
    assert "does not answer" in agent.call("start", ids[0]).stderr
    pid = agent.state(container_id)["pid"]
    assert agent.end() == 0
    agent.start()
    assert agent.state(container_id)["pid"] == pid
    assert "does not answer" in agent.state(ids[0])["error"]


def test_exec_answers_though_a_file_in_the_container_hangs(agent: AgentProcess, tmp_path: Path) -> None:
    """More often than the agent has worker threads. The container sees what is mounted on its directory later."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").touch()
    system_call("mount", str(etc).encode(), str(etc).encode(), None, MS_BIND, None)
    try:
        system_call("mount", None, str(etc).encode(), None, MS_SHARED, None)
        container_id = run(agent, FOREVER, "--mp", f"{etc}:/etc:rslave")
        with hung_mount(etc / "passwd", stat.S_IFREG):
            commands = [
                subprocess.Popen(
                    agent.command("exec", container_id, "/bin/true", program="pycm"),
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for _ in range(6)
            ]
            for command in commands:
                assert "cannot be read within 10 s: its file system hangs" in command.communicate()[1]
            agent.cm("rename", container_id, "still-there")
            assert agent.end() == 0
        agent.start()
        assert agent.pycm("exec", container_id, "/bin/true").returncode == 0
    finally:
        unmount(str(etc))


def test_creations_wait_for_no_preload_directory_that_hangs(
    tmp_path: Path, containerd: ContainerdServer, hanging: Path
) -> None:
    containers = f'preload_dir = "{hanging}"'
    with AgentProcess(tmp_path, containerd, containers=containers) as agent:
        failed = agent.call("create", "--network", "host", "registry.test/not/there:1")
        assert "failed to resolve reference" in failed.stderr
        assert f"preload directory {hanging} cannot be read within 10 s" in agent.text()
        assert agent.end() == 0
        agent.start()


#: The agent, whose worker threads all hang once a container is to be renamed.
HUNG_WORKERS = """\
import sys, threading
from pycm.storage.store import ContainerStore
from pycm.cli.main import pycm
save = ContainerStore.save
def hang(self, container):
    if container.name.startswith("hang"):
        print("a worker thread hangs", flush=True)
        threading.Event().wait()
    save(self, container)
ContainerStore.save = hang
sys.exit(pycm())
"""


def test_agent_ends_within_its_bound_while_all_worker_threads_hang(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd) as agent:
        container_id = run(agent, COUNTER)
        ids = [agent.cm("create", "--network", "host", "--rp", "no", IMAGE) for _ in range(5)]
        agent.end()
        agent.start(program=HUNG_WORKERS)
        pid = agent.state(container_id)["pid"]
        renames = [agent.popen("rename", each, f"hang-{n}") for n, each in enumerate(ids)]
        wait_until(lambda: agent.text().count("a worker thread hangs") == WORKERS, 20, "all workers hang")
        agent.end()
        assert "end of the agent" in agent.text() or "operations did not end" in agent.text()
        for process in renames:
            process.communicate()
        agent.start()
        assert agent.state(container_id)["pid"] == pid
        logged = agent.logged(container_id)
        assert logged == [f"line {n}" for n in range(1, len(logged) + 1)]


HUNG_START = """\
import os, signal, sys, threading
from pycm.cli.main import pycm
from pycm.storage import mounts
def hang(home):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
mounts.unmount_snapshots = hang
sys.exit(pycm())
"""
HUNG_LOOP = """\
import sys, time
from pycm import agent
from pycm.cli.main import pycm
agent.ALL = 2.0
def hang(self):
    while True:
        time.sleep(0.1)
agent.Agent.status = hang
sys.exit(pycm())
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [(HUNG_START, "a signal ended the start"), (HUNG_LOOP, "Timeout (0:00:02)!")],
)
def test_agent_ends_while_its_start_or_its_event_loop_hangs(
    tmp_path: Path, containerd: ContainerdServer, program: str, said: str
) -> None:
    agent = AgentProcess(tmp_path, containerd)
    command = [sys.executable, "-c", program, "daemon", "--cfg-file", str(agent.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        if program is HUNG_LOOP:
            wait_until(agent.socket.exists, 30, "the agent listens")
            process.send_signal(signal.SIGTERM)
        assert said in process.stdout.read()
        assert process.wait(300) == 1


@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf", "json.log", "config.json.tmp"])
def test_agent_replaces_or_refuses_a_fifo_in_place_of_a_containers_file(
    agent: AgentProcess, name: str
) -> None:
    container_id = run(agent, "exit 3")
    agent.wait_for(container_id, status=5)
    path = agent.home / "containers" / container_id / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    started = agent.call("start", container_id)
    if name == "json.log":
        assert "not a regular file" in agent.call("logs", container_id).stderr
    else:
        assert started.returncode == 0, started.stderr
        agent.wait_for(container_id, status=5)
    assert agent.end() == 0
    path.unlink(missing_ok=True)
    agent.start()


def test_agent_sets_a_fifo_in_place_of_a_record_aside(agent: AgentProcess) -> None:
    container_id = agent.cm("create", "--network", "host", IMAGE)
    other = agent.cm("create", "--network", "host", IMAGE)
    agent.end()
    record = agent.home / "containers" / container_id / "config.json"
    record.unlink()
    os.mkfifo(record)
    agent.start()
    assert agent.ids() == [other]
    assert "not a regular file" in agent.text()


# ── what is refused ──


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--network", "overlay"), "unsupported network mode overlay"),
        (("--network", "host", "-n", "../x"), "invalid container name format : ../x"),
    ],
)
def test_what_cannot_be_is_refused_with_one_line(
    agent: AgentProcess, flags: tuple[str, ...], said: str
) -> None:
    done = agent.call("create", *flags, IMAGE)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert agent.ids() == []


@pytest.mark.parametrize("image", ["invalid", "registry.test/not/there:1"])
def test_a_missing_image_is_a_clear_error(agent: AgentProcess, image: str) -> None:
    done = agent.call("create", "--network", "host", image)
    assert f'failed to resolve reference "{image}": ' in done.stderr
    assert agent.ids() == []
    assert list((agent.home / "containers").iterdir()) == []


def second_agent(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pycm", "daemon", "--cfg-file", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_second_agent_on_the_same_directories_does_not_start(agent: AgentProcess) -> None:
    done = second_agent(agent.config)
    assert done.returncode == 1
    assert "Error: resource temporarily unavailable: another agent holds" in done.stderr
    assert agent.ids() == []


@pytest.mark.parametrize("linked", [False, True])
def test_a_second_agent_on_the_same_state_does_not_start(
    agent: AgentProcess, tmp_path: Path, *, linked: bool
) -> None:
    """With run-time directories of its own; the state's by another name, too."""
    home = agent.home
    if linked:
        home = tmp_path / "other-name"
        home.symlink_to(agent.home)
    config = tmp_path / "second.toml"
    text = agent.config.read_text().replace(str(agent.run), str(tmp_path / "run2"))
    config.write_text(text.replace(str(agent.home), str(home)))
    done = second_agent(config)
    assert done.returncode == 1
    assert f"Error: resource temporarily unavailable: another agent uses {home}" in done.stderr
    agent.kill()
    config.write_text(config.read_text().replace("[manager]", "[manager]\n"))
    agent.start()  # a killed one holds no lock


# ── signals ──

#: Those that cannot be caught, those that end the agent in order, those that report a fault.
NOT_STRAY = {"KILL", "STOP", "INT", "TERM", "QUIT", "HUP", "ABRT", "SEGV", "BUS", "FPE", "ILL"}


def test_agent_and_keepers_survive_every_stray_signal(agent: AgentProcess) -> None:
    container_id = run(agent, FOREVER)
    keeper = int((agent.run / "fifo" / container_id / "keeper").read_text())
    assert agent.process
    not_stray = {getattr(signal, f"SIG{name}") for name in NOT_STRAY}
    for number in sorted(signal.valid_signals() - not_stray):
        agent.process.send_signal(number)
        os.kill(keeper, number)
        assert agent.ids() == [container_id], number
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        os.kill(keeper, number)
    assert Path(f"/proc/{keeper}/comm").read_text() == "sleep\n"
    assert agent.state(container_id)["running"]
    assert agent.end(signal.SIGQUIT) == 0
    agent.start()
