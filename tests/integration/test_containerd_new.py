# SPDX-License-Identifier: Apache-2.0
"""containerd 1.7 and newer, which forgets a container that ends while it is down unless the container's shim is recorded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from gates import gated
from images import IMAGE, Image, write_archive

from pycm.containerd import rpc
from pycm.containerd.client import Client
from pycm.containerd.proto import sandbox_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

FETCH = Path(__file__).parents[2] / "scripts/lib/debian_containerd.py"
FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"


def programs(suite: str) -> str:
    """The containerd of Debian's *suite*: 1.7 in trixie, 2.x in testing."""
    done = subprocess.run([sys.executable, FETCH, suite], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def suite() -> str:
    return "testing"


@pytest.fixture
def containerd(tmp_path: Path, suite: str) -> Iterator[ContainerdServer]:
    with private_containerd(programs=programs(suite)) as server:
        server.ctr("images", "import", write_archive(tmp_path / "app.tar", Image(IMAGE)))
        yield server


def records(containerd: ContainerdServer) -> list[str]:
    """Ids in the sandbox store, whoever has made them."""
    listed = ask(containerd, rpc.SANDBOX_LIST, sandbox_pb2.StoreListRequest())
    return sorted(record.sandbox_id for record in listed.list)


def ask(containerd: ContainerdServer, call: Any, request: Any) -> Any:
    async def run() -> Any:
        client = Client(containerd.address, containerd.namespace)
        try:
            return await client.call(call, request)
        finally:
            client.close()

    return asyncio.run(run())


def assert_nothing_left(agent: AgentProcess, containerd: ContainerdServer) -> None:
    for container_id in agent.ids():
        agent.cm("remove", "-f", "-t", "1s", container_id)
    assert records(containerd) == []
    assert containerd.ctr("tasks", "ls", "-q").split() == []
    assert containerd.ctr("containers", "ls", "-q").split() == []
    assert "-snapshot" not in containerd.ctr("snapshots", "ls")
    wait_until(lambda: containerd._shims() == [], 10, "shims end")


@pytest.mark.parametrize("suite", ["trixie", "testing"])
def test_containers_that_end_while_containerd_is_down_keep_their_exit_codes(
    agent: AgentProcess, containerd: ContainerdServer
) -> None:
    done, again = gated(agent, "a", "on-failure"), gated(agent, "b", "on-failure")
    assert records(containerd) == sorted([done.id, again.id])
    containerd.ctr("images", "rm", "--sync", IMAGE)  # with a garbage collection
    assert records(containerd) == sorted([done.id, again.id])
    containerd.kill()
    done.open(0)
    again.open(3)
    containerd.start()
    wait_until(lambda: agent.get(again.id)["restart_count"] == 1, 30, "the failed one is restarted")
    assert agent.wait_for(again.id, running=True)["pid"] != again.pid
    state = agent.wait_for(done.id, status=5)
    assert (state["exit_code"], state["error"], agent.get(done.id)["restart_count"]) == (0, "", 0)
    wait_until(lambda: records(containerd) == [again.id], 30, "its record is removed")
    assert "exit code unknown" not in agent.text()
    assert_nothing_left(agent, containerd)


def test_container_started_under_containerd_1_6_keeps_its_exit_code_after_an_upgrade(tmp_path: Path) -> None:
    """Agent and containerd are down when the container ends: the agent before that has recorded what it found running."""
    with private_containerd() as containerd:
        containerd.ctr("images", "import", write_archive(tmp_path / "app.tar", Image(IMAGE)))
        with AgentProcess(tmp_path, containerd) as agent:
            gate = gated(agent, "old", "on-failure")
            containerd.ctr("run", "-d", "--null-io", IMAGE, "stranger", "/bin/sleep", "86400")
            containerd.kill()
            containerd.programs = programs("testing")
            containerd.start()
            wait_until(lambda: records(containerd) == [gate.id], 30, "the running container is recorded")
            agent.kill()
            containerd.kill()
            gate.open(0)
            containerd.start()
            agent.start()
            state = agent.wait_for(gate.id, status=5)
            assert (state["exit_code"], agent.get(gate.id)["restart_count"]) == (0, 0)
            wait_until(lambda: records(containerd) == [], 30, "its record is removed")
            containerd.ctr("tasks", "rm", "-f", "stranger")


def test_crashes_of_the_agent_leave_no_record_behind(tmp_path: Path, containerd: ContainerdServer) -> None:
    foreign = types_pb2.Sandbox(
        sandbox_id="foreign", runtime=types_pb2.Sandbox.Runtime(name="some.runtime.v1")
    )
    ask(containerd, rpc.SANDBOX_CREATE, sandbox_pb2.StoreCreateRequest(sandbox=foreign))
    with AgentProcess(tmp_path, containerd) as agent:
        container_id = agent.cm("create", "--network", "host", "--rp", "no", IMAGE, "/bin/sh", "-c", FOREVER)
        for point in ("task-made", "task-destroyed"):
            agent.end()
            agent.start(PYCM_FAIL_POINT=f"containerd.{point}")
            agent.call("start", container_id)
            if point == "task-destroyed":
                agent.call("remove", "-f", container_id)
            assert agent.process
            agent.process.wait(60)
            assert records(containerd) == [container_id, "foreign"]
            agent.start()
            wait_until(lambda: records(containerd) == ["foreign"], 30, f"left-overs of {point} are removed")
        assert "Traceback" not in agent.text()


#: A runc whose "create" does not come back as long as there is a file for it.
WRAPPER = """\
#!/bin/sh
for word in "$@"; do
    while [ "$word" = create ] && [ -e "{directory}/hangs" ]; do >"{directory}/is-hanging"; sleep 0.05; done
done
exec runc "$@"
"""


def test_crash_of_containerd_between_record_and_task_leaves_no_shim_behind(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    directory = tmp_path / "runc"
    directory.mkdir()
    (directory / "runc").write_text(WRAPPER.format(directory=directory))
    (directory / "runc").chmod(0o755)
    with AgentProcess(tmp_path, containerd, containers=f'runc_binary = "{directory}/runc"') as agent:
        container_id = agent.cm("create", "--network", "host", "--rp", "no", IMAGE, "/bin/sh", "-c", FOREVER)
        (directory / "hangs").touch()
        start = agent.popen("start", container_id)
        wait_until((directory / "is-hanging").exists, 30, "runc is called")
        wait_until(lambda: records(containerd) == [container_id], 30, "the record is made")
        containerd.kill()
        (directory / "hangs").unlink()
        start.communicate()
        wait_until(lambda: "containerd unavailable" in agent.text(), 30, "the loss is seen")
        containerd.start()
        wait_until(lambda: records(containerd) == [], 30, "the record is removed")
        wait_until(lambda: containerd._shims() == [], 30, "the shim without a task ends")
        agent.cm("start", container_id)
        assert records(containerd) == [container_id]
        assert_nothing_left(agent, containerd)
