# SPDX-License-Identifier: Apache-2.0
"""The order in which containers start with the agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pycm.containers.manager import boot_order
from pycm.model.container import Container, HostConfig, State
from pycm.model.frozen import replace
from pycm.model.states import Status
from support.fakes import FakeRuntime
from support.managers import described, world

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pycm.ports import TaskRequest


def named(name: str, *providers: str, number: int = 0) -> Container:
    extra = tuple(f"x:container_{provider}-host" for provider in providers)
    host = HostConfig(network_mode="bridge", extra_hosts=extra)
    return Container(
        id=name, name=name, host_name=f"{name}-host", host_config=host, created=f"2026-01-01T00:00:0{number}Z"
    )


def order(*containers: Container) -> list[list[str]]:
    return [[container.id for container in group] for group in boot_order(containers)[0]]


def test_who_is_named_starts_before_who_names_it() -> None:
    assert order(named("a", "b"), named("b", "c"), named("c"), named("d")) == [["c", "d"], ["b"], ["a"]]


def test_within_a_group_the_oldest_is_first() -> None:
    assert order(named("a", number=3), named("b", number=1), named("c", number=2)) == [["b", "c", "a"]]


def test_peers_that_do_not_start_now_are_not_waited_for() -> None:
    assert order(named("a", "elsewhere"), named("b", "a")) == [["a"], ["b"]]


def test_other_extra_hosts_and_ones_own_name_mean_nothing() -> None:
    own = replace(
        named("a", "a"), host_config=HostConfig(extra_hosts=("m:host_ip", "x:container_a-host", "odd"))
    )
    assert order(own, replace(Container(id="bare"), created="2027-01-01T00:00:00Z")) == [["a", "bare"]]


def test_a_circle_starts_in_the_order_of_creation_and_is_told() -> None:
    containers = [
        named("a", "b", number=2),
        named("b", "a", number=1),
        named("late", "a", number=0),
        named("free"),
    ]
    groups, circle = boot_order(containers)
    assert [[c.id for c in group] for group in groups] == [["free"], ["b"], ["a"], ["late"]]
    assert [c.id for c in circle] == ["b"]


def test_three_in_a_circle_end() -> None:
    assert order(named("a", "b", number=3), named("b", "c", number=1), named("c", "a", number=2)) == [
        ["b"],
        ["a"],
        ["c"],
    ]


def stored(name: str, *providers: str, number: int) -> Container:
    described_ = described(name, "always")
    assert described_.host_config is not None
    extra = tuple(f"x:container_{provider}-host" for provider in providers)
    return replace(
        described_,
        name=name,
        host_name=f"{name}-host",
        host_config=replace(described_.host_config, extra_hosts=extra),
        state=State(status=Status.EXITED, exited=True),
        started_successfully_before=True,
        created=f"2026-01-01T00:00:0{number}Z",
    )


async def test_after_a_reboot_providers_start_first(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime()
    names = {"a": ("b",), "b": ("c",), "c": (), "x": ("y",), "y": ("x",)}
    runtime.snapshots = set(names)
    containers = [stored(name, *providers, number=i) for i, (name, providers) in enumerate(names.items())]
    async with world(*containers, runtime=runtime) as w:
        await w.until(lambda: all(w.state(name).running for name in names))
    started = [container_id for method, container_id in runtime.calls if method == "start"]
    assert started == ["c", "b", "a", "x", "y"]
    told = [record.message for record in caplog.records if "circle" in record.message]
    assert told == ["extra_hosts of x name each other in a circle: they start in the order of creation"]


class SlowProvider(FakeRuntime):
    """The start of c lasts until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def start(self, request: TaskRequest, created: Callable[[int], None] | None = None) -> int:
        if request.id == "c":
            await self.gate.wait()
        return await super().start(request, created)


async def test_the_end_of_a_back_off_does_not_overtake_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that a reboot took count as failures, and each alone would be restarted after its delay."""
    monkeypatch.setattr("pycm.containers.unit.restart.next_delay", lambda *_: 0.0)
    runtime = SlowProvider()
    runtime.snapshots = {"b", "c"}
    alive = State(status=Status.RUNNING, running=True, pid=4711)
    containers = [
        replace(stored("b", "c", number=1), state=alive),
        replace(stored("c", number=2), state=alive),
    ]
    async with world(*containers, runtime=runtime) as w:
        await w.until(lambda: w.state("b").exited and w.state("c").exited)
        for _ in range(100):  # turns of the loop
            await asyncio.sleep(0)
        assert not w.state("b").running
        runtime.gate.set()
        await w.until(lambda: w.state("b").running)
    started = [container_id for method, container_id in runtime.calls if method == "start"]
    assert started == ["c", "b"]
