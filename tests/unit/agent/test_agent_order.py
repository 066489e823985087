# SPDX-License-Identifier: Apache-2.0
"""What comes first when the agent starts: containers that should run, then the care for images, MQTT and the deployment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pycm import agent as module
from pycm.agent import Agent
from pycm.config.types import Config, Connection, Containers, Deployment, GrpcServer, Manager, Things
from pycm.errors import OperationFailedError
from pycm.model import units
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.ports import ImageInfo
from pycm.storage.store import ContainerStore
from support.fake_metrics import FakeMetrics
from support.fakes import IMAGE, FakeImages, FakeLogs, FakeNetwork, FakeRuntime
from support.managers import described

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pycm.ports import RuntimeEvent


class Runtime(FakeRuntime):
    """`answers` and `starts`: what a start of a container, and containerd's first answer, wait for."""

    def __init__(self, order: list[str]) -> None:
        super().__init__(any_image=True)
        self.order = order
        self.answers, self.starts = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.starts.set()

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        await self.answers.wait()
        async for event in super().events():
            yield event

    async def start(self, request: Any, created: Any = None) -> int:
        await self.starts.wait()
        pid = await super().start(request, created)
        self.order.append(f"start {request.id}")
        return pid


class Images(FakeImages):
    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self.order = order
        self.images[IMAGE] = ImageInfo(IMAGE, "sha256:" + "1" * 64, 1, units.now())

    async def run(self) -> None:
        self.order.append("images")

    def container_removed(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Twin:
    """`fail`: what its start raises."""

    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.fail: Exception | None = None

    async def start(self) -> None:
        self.order.append("twin")
        if self.fail:
            raise self.fail

    async def stop(self) -> None:
        self.order.append("twin stopped")


class Network(FakeNetwork):
    async def prepare(self) -> None:
        pass


class Logs(FakeLogs):
    async def close(self) -> None:
        pass


class Start:
    """An agent on faked peers, with one container on record that should run."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.code = -1
        self.runtime, self.twin = Runtime(self.order), Twin(self.order)
        self.directory = tmp_path / "manifests"
        self.config = Config(
            manager=Manager(home_dir=str(tmp_path / "home"), exec_root_dir=str(tmp_path / "run")),
            containers=Containers(home_dir=str(tmp_path / "home"), exec_root_dir=str(tmp_path / "run")),
            grpc_server=GrpcServer(address_path=str(tmp_path / "run/sock")),
            deployment=Deployment(home_dir=str(tmp_path / "home"), ctr_dir=str(self.directory)),
            connection=Connection(broker_url="tcp://localhost:1"),
            things=Things(home_dir=str(tmp_path / "home")),
        )
        monkeypatch.setattr(module, "ContainerdRuntime", lambda *_args, **_options: self.runtime)
        monkeypatch.setattr(module, "ImageService", lambda *_args: Images(self.order))
        monkeypatch.setattr(module, "Networks", lambda *_args: Network())
        monkeypatch.setattr(module, "JsonFileLogs", lambda *_args: Logs())
        monkeypatch.setattr(module, "Sampler", FakeMetrics)
        monkeypatch.setattr(module, "make_twin", lambda *_args: self.twin)

    def store(self, name: str) -> None:
        """Put on record a container that ran, and that its policy starts with the agent."""
        container = described(name, "always")
        stopped = replace(container.state, status=Status.STOPPED)
        store = ContainerStore(self.config.manager.home_dir)
        store.prepare()
        store.save(replace(container, name=name, state=stopped, started_successfully_before=True))

    def describe(self, name: str) -> None:
        self.directory.mkdir(exist_ok=True)
        description = {"image": {"name": IMAGE}, "host_config": {"network_mode": "host"}}
        (self.directory / f"{name}.json").write_text(json.dumps(description))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        agent = Agent(self.config)
        await agent.start()
        try:
            yield agent
        finally:
            self.code = await agent.stop()

    async def until(self, *stages: set[str]) -> None:
        """Wait until all of each stage has come, and nothing of a later one before it."""
        for _ in range(4_000):
            if len(self.order) >= sum(map(len, stages)):
                break
            await asyncio.sleep(0.005)
        left = list(self.order)
        for stage in stages:
            assert set(left[: len(stage)]) == stage, self.order
            del left[: len(stage)]
        assert left == []


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(tmp_path, monkeypatch)


async def test_agent_starts_containers_then_descriptors_before_images_and_mqtt(start: Start) -> None:
    for name in ("c1", "c2"):
        start.store(name)
    start.describe("d1")
    async with start.running() as agent:
        described = f"start {await created(agent)}"
        await start.until({"start c1", "start c2"}, {described}, {"images", "twin"})
    assert start.order[-1] == "twin stopped"
    assert start.code == 0


async def created(agent: Agent) -> str:
    """The id of the container that is made from the descriptor d1."""
    for _ in range(4_000):
        found = [c.id for c in agent.containers.list() if c.name == "d1"]
        if found:
            return found[0]
        await asyncio.sleep(0.005)
    raise AssertionError("in vain")


async def test_agent_waits_for_a_slow_container_before_it_goes_on(start: Start) -> None:
    start.store("c1")
    start.describe("d1")
    start.runtime.starts.clear()
    async with start.running() as agent:
        await asyncio.wait_for(agent.containers.reached.wait(), 60)
        for _ in range(100):
            await asyncio.sleep(0)
        assert start.order == []
        start.runtime.starts.set()
        await start.until({"start c1"}, {f"start {await created(agent)}"}, {"images", "twin"})


async def test_agent_does_not_wait_for_a_descriptor_whose_image_is_away_before_it_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have to be imported by the care for images."""
    monkeypatch.setattr(Images, "list", no_images)
    monkeypatch.setattr(Images, "hold", never)
    start.describe("d1")
    async with start.running():
        await start.until({"images", "twin"})


async def no_images(_images: Images) -> list[ImageInfo]:
    return []


@contextlib.asynccontextmanager
async def never(_images: Images, _reference: str) -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield


async def test_agent_goes_on_where_a_descriptor_hangs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOT", 0.05)
    monkeypatch.setattr(Images, "hold", never)
    start.describe("d1")
    async with start.running():
        await start.until({"images", "twin"})


async def test_agent_goes_on_where_a_container_hangs_or_containerd_is_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER", 0.01)
    monkeypatch.setattr(module, "BOOT", 0.01)
    start.store("c1")
    start.runtime.answers.clear()
    async with start.running():
        await start.until({"images", "twin"})
    start.order.clear()
    start.runtime.answers.set()
    start.runtime.starts.clear()
    async with start.running():
        await start.until({"images", "twin"})
        start.runtime.starts.set()
        await start.until({"images", "twin"}, {"start c1"})


async def test_agent_ends_in_order_where_it_is_asked_to_before_its_containers_run(start: Start) -> None:
    start.store("c1")
    start.runtime.answers.clear()
    async with start.running():
        pass
    assert (start.order, start.code) == ([], 0)


async def test_agent_ends_with_an_error_where_the_twin_cannot_start(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start.twin.fail = OperationFailedError("a bug")
    async with start.running() as agent:
        await asyncio.wait_for(agent.ended(), 60)
    assert start.code == 1
    assert "agent: a part of it ended: OperationFailedError('a bug')" in caplog.text


@pytest.mark.parametrize("present", [False, True])
async def test_agent_without_descriptors_does_not_load_the_deployment(
    start: Start, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    monkeypatch.delitem(sys.modules, "pycm.deployment.service", raising=False)
    if present:
        start.directory.mkdir()
    async with start.running() as agent:
        assert agent._deployment is not None
        await agent._deployment
    assert "pycm.deployment.service" not in sys.modules


@pytest.mark.parametrize("present", [False, True])
async def test_first_start_in_mode_init_is_the_first_even_without_descriptors(
    start: Start, present: bool
) -> None:
    start.config = replace(start.config, deployment=replace(start.config.deployment, mode="init"))
    if present:
        start.directory.mkdir()
    for _ in range(2):
        async with start.running() as agent:
            assert agent._deployment is not None
            await agent._deployment
            assert agent.containers.list() == []
        start.describe("d1")


async def test_agent_with_deployment_disabled_reads_no_descriptor(start: Start) -> None:
    start.describe("d1")
    start.config = replace(start.config, deployment=replace(start.config.deployment, enable=False))
    async with start.running() as agent:
        await start.until({"images", "twin"})
        assert (agent._deployment, agent.containers.list()) == (None, [])


async def test_agent_goes_on_after_a_bug_in_the_deployment(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start.describe("d1")
    monkeypatch.setattr("pycm.deployment.service.Deployment.run", lambda _self: 1 / 0)
    async with start.running() as agent:
        assert agent._deployment is not None
        await agent._deployment
        assert not agent._ended.is_set()
    assert "deployment: a bug (the agent continues)" in caplog.text
    assert start.code == 0
