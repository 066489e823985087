# SPDX-License-Identifier: Apache-2.0
"""containerd killed, away, back, or with tasks that nobody told the agent of; runc that fails; a host that boots anew."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from gates import gated
from images import IMAGE, Image, write_archive
from network_world import private_network

from support.closing_listener import closing_listener
from support.keepers import end_keepers

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
IDLE = "trap 'exit 143' TERM; sleep 86400 & wait"
CONTAINERS = 20


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[ContainerdServer]:
    """One for each test: they are killed."""
    with private_containerd() as server:
        server.ctr("images", "import", write_archive(tmp_path / "app.tar", Image(IMAGE)))
        yield server


def as_it_is(agent: AgentProcess) -> dict[str, tuple[Any, ...]]:
    """Of each container what a restart of containerd must not change unless it ended."""
    listed = {container_id: agent.get(container_id) for container_id in agent.ids()}
    return {
        container_id: (
            container["state"]["status"],
            container["state"]["pid"],
            container["state"]["started_at"],
            container["restart_count"],
        )
        for container_id, container in listed.items()
    }


def test_containerd_killed_under_twenty_containers_of_which_three_end_meanwhile(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    stay = [agent.run_container(IMAGE, "/bin/sh", "-c", IDLE) for _ in range(CONTAINERS - 3)]
    stays = gated(agent, "no", "no")
    fails = gated(agent, "failing", "on-failure")
    again = gated(agent, "again", "unless-stopped")
    before = as_it_is(agent)
    assert len(before) == CONTAINERS
    containerd.kill()
    for gate, code in ((stays, 7), (fails, 3), (again, 0)):
        gate.open(code)
    assert agent.ids() == list(before), "the list answers while containerd is away"
    containerd.start()
    for gate in (fails, again):
        wait_until(lambda: agent.get(gate.id)["restart_count"] == 1, 30, "its end is seen")  # noqa: B023
        assert agent.wait_for(gate.id, running=True)["pid"] != gate.pid
    state = agent.wait_for(stays.id, status=5)
    assert (state["exit_code"], agent.get(stays.id)["restart_count"]) == (7, 0)
    after = as_it_is(agent)
    assert {one: after[one] for one in stay} == {one: before[one] for one in stay}
    agent.cm("stop", "-f", "-t", "1s", stay[0])  # events come over the new connection
    assert agent.state(stay[0])["status"] == 3


def test_an_agent_that_starts_before_containerd_shows_its_containers_and_finds_them_again(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    stays = agent.run_container(IMAGE, "/bin/sh", "-c", FOREVER)
    ends = gated(agent, "ends", "no")
    pid = agent.state(stays)["pid"]
    agent.kill()
    containerd.kill()
    ends.open(4)
    agent.start()
    assert agent.state(stays)["pid"] == pid
    refused = agent.call("stop", stays)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "containerd" in refused.stderr
    containerd.start()
    assert agent.wait_for(ends.id, status=5)["exit_code"] == 4
    assert agent.state(stays)["pid"] == pid
    agent.cm("stop", stays)
    assert agent.state(stays)["exit_code"] == 143


def test_agent_survives_a_containerd_that_closes_each_connection_at_once(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    """Under the running agent, and before an agent starts: as a socket unit does whose containerd fails."""
    stays = agent.run_container(IMAGE, "/bin/sh", "-c", FOREVER)
    pid = agent.state(stays)["pid"]
    containerd.kill()
    with closing_listener(containerd.address) as closing:
        wait_until(lambda: closing.closed >= 3, 30, "the agent tries again")
        assert agent.state(stays)["pid"] == pid
        assert "containerd" in agent.call("stop", stays).stderr
        agent.kill()
        agent.start()
        seen = closing.closed
        wait_until(lambda: closing.closed >= seen + 3, 30, "the next agent tries again")
        assert agent.state(stays)["pid"] == pid
        assert "containerd" in agent.pycm("pull", "localhost:1/app:1").stderr
        assert agent.process
        assert agent.process.poll() is None
    containerd.start()
    wait_until(lambda: agent.call("stop", stays).returncode == 0, 10, "the agent is connected again")
    assert agent.state(stays)["exit_code"] == 143
    assert "Traceback" not in agent.text()


def test_unknown_tasks_in_our_namespace_are_reported_once_and_left_alone(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    ours = agent.run_container(IMAGE, "/bin/sh", "-c", FOREVER)

    def strangers() -> list[list[str]]:
        return [line.split()[:3] for line in containerd.ctr("tasks", "ls").splitlines() if "stranger" in line]

    containerd.ctr("run", "-d", "--null-io", IMAGE, "stranger", "/bin/sleep", "86400")
    before = strangers()
    assert before
    reported = "task stranger in containerd: no stored container has this id (not changed)"
    agent.kill()
    agent.start()
    wait_until(lambda: reported in agent.text(), 30, "the stranger is reported")
    containerd.kill()
    containerd.start()
    wait_until(lambda: agent.text().count("containerd is back") == 1, 30, "the agent is connected again")
    agent.cm("stop", ours)
    agent.cm("remove", ours)
    assert agent.text().count(reported) == 1
    assert agent.end() == 0
    assert strangers() == before
    agent.start()
    assert agent.ids() == []
    assert strangers() == before
    assert "stranger-snapshot" not in containerd.ctr("snapshots", "ls")
    assert "stranger" in containerd.ctr("snapshots", "ls")


# ── a runtime that fails ──

#: A runc that fails at whatever step there is a file for.
WRAPPER = """\
#!/bin/sh
for word in "$@"; do
    [ ! -e "{directory}/$word-fails" ] || {{ echo "runc says: no $word today" >&2; exit 1; }}
done
exec runc "$@"
"""


@pytest.fixture
def runc(tmp_path: Path) -> Path:
    """The directory of the files that make it fail."""
    directory = tmp_path / "runc"
    directory.mkdir()
    (directory / "runc").write_text(WRAPPER.format(directory=directory))
    (directory / "runc").chmod(0o755)
    return directory


@pytest.fixture
def spoilt(tmp_path: Path, containerd: ContainerdServer, runc: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, containerd, containers=f'runc_binary = "{runc}/runc"') as process:
        yield process


def assert_refused(agent: AgentProcess, *command: str) -> None:
    done = agent.call(*command)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr


def assert_nothing_left(agent: AgentProcess, containerd: ContainerdServer) -> None:
    assert agent.ids() == []
    assert containerd.ctr("tasks", "ls", "-q").split() == []
    assert containerd.ctr("containers", "ls", "-q").split() == []
    assert "-snapshot" not in containerd.ctr("snapshots", "ls")
    assert not list((agent.run / "fifo").iterdir())


@pytest.mark.parametrize("step", ["create", "start"])
def test_a_runtime_that_fails_to_start_a_container_leaves_nothing_of_the_try(
    spoilt: AgentProcess, containerd: ContainerdServer, runc: Path, step: str
) -> None:
    container_id = spoilt.cm("create", "--network", "host", "--rp", "no", IMAGE, "/bin/sh", "-c", FOREVER)
    (runc / f"{step}-fails").touch()
    assert_refused(spoilt, "start", container_id)
    assert spoilt.state(container_id)["error"]
    assert containerd.ctr("tasks", "ls", "-q").split() == []
    assert containerd.ctr("containers", "ls", "-q").split() == []
    assert not list((spoilt.run / "fifo").iterdir())
    (runc / f"{step}-fails").unlink()
    spoilt.cm("start", container_id)
    spoilt.cm("stop", container_id)
    spoilt.cm("remove", container_id)
    assert_nothing_left(spoilt, containerd)


def test_a_runtime_that_fails_to_signal_leaves_the_container_running(
    spoilt: AgentProcess, containerd: ContainerdServer, runc: Path
) -> None:
    container_id = spoilt.run_container(IMAGE, "/bin/sh", "-c", FOREVER)
    (runc / "kill-fails").touch()
    assert_refused(spoilt, "stop", container_id)
    assert_refused(spoilt, "remove", "-f", container_id)
    assert spoilt.state(container_id)["running"]
    (runc / "kill-fails").unlink()
    spoilt.cm("stop", container_id)
    assert spoilt.state(container_id)["exit_code"] == 143
    spoilt.cm("remove", container_id)
    assert_nothing_left(spoilt, containerd)


def test_a_runtime_that_fails_to_delete_hides_no_exit_and_the_next_start_clears_up(
    spoilt: AgentProcess, containerd: ContainerdServer, runc: Path
) -> None:
    container_id = spoilt.run_container(IMAGE, "/bin/sh", "-c", FOREVER)
    (runc / "delete-fails").touch()
    spoilt.cm("stop", container_id)
    assert spoilt.state(container_id)["exit_code"] == 143
    (runc / "delete-fails").unlink()
    spoilt.cm("start", container_id)
    assert spoilt.state(container_id)["running"]
    spoilt.cm("remove", "-f", container_id)
    assert_nothing_left(spoilt, containerd)


# ── a host that boots anew ──


def test_after_a_power_cut_all_come_back_providers_first_and_a_stop_by_hand_stays(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    with private_network() as machine, AgentProcess(tmp_path, containerd, inside=machine.inside) as agent:
        named = ["broker:container_provider-host"]
        start(agent, "consumer", "unless-stopped", network_mode="bridge", extra_hosts=named)
        start(agent, "provider", "unless-stopped", network_mode="bridge")
        start(agent, "failing", "on-failure", network_mode="host")
        start(agent, "stopped", "unless-stopped", network_mode="bridge")
        start(agent, "never", "no", network_mode="bridge")
        agent.cm("stop", "stopped")
        power_cut(agent, containerd)
        machine.renew()
        containerd.start()
        agent.start()
        for container_id in ("consumer", "provider", "failing"):
            agent.wait_for(container_id, running=True)
        assert agent.state("provider")["started_at"] < agent.state("consumer")["started_at"]
        pid = agent.state("consumer")["pid"]
        assert "broker" in Path(f"/proc/{pid}/root", "etc/hosts").read_text()
        state = agent.wait_for("never", status=5)
        lost = "the task was lost while the agent did not watch it"
        assert (state["exit_code"], state["error"]) == (255, lost)
        assert agent.state("stopped")["status"] == 3
        assert len(list((agent.run / "netns").iterdir())) == 2
        running = [line.split()[0] for line in containerd.ctr("tasks", "ls").splitlines()[1:]]
        assert sorted(running) == ["consumer", "failing", "provider"]


def start(agent: AgentProcess, name: str, policy: str, **host: Any) -> None:
    file = agent.directory / f"{name}.json"
    description = {
        "container_id": name,
        "container_name": name,
        "image": {"name": IMAGE},
        "host_config": {"restart_policy": {"type": policy}, **host},
        "config": {"cmd": ["/bin/sh", "-c", FOREVER]},
    }
    file.write_text(json.dumps(description))
    agent.cm("create", "--file", file)
    agent.cm("start", name)


def power_cut(agent: AgentProcess, containerd: ContainerdServer) -> None:
    """Every process dies at once, and what lies under /run is gone."""
    agent.kill()
    containerd.power_off()
    end_keepers(str(agent.run / "fifo"))
    for namespace in (agent.run / "netns").iterdir():
        subprocess.run(["umount", namespace], check=True)
    shutil.rmtree(agent.run)
