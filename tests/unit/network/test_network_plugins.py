# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pycm.errors import ConflictError, OperationFailedError
from pycm.network import plugins
from pycm.network.plugins import Plugins, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Writes down what it was asked, and answers with its own name.
SAYS = """#!/bin/sh
cat >{log}.$(basename $0).$CNI_COMMAND
echo "$(basename $0) $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_PATH" >>{log}
{then}
[ $CNI_COMMAND = DEL ] || echo "{{\\"by\\": \\"$(basename $0)\\"}}"
"""
CHAIN: tuple[dict[str, Any], ...] = ({"type": "first", "a": 1}, {"type": "second", "b": 2})
SANDBOX = Sandbox("c1", "/ns", CHAIN)


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "cni"
        self.directory.mkdir()
        self.log = directory / "log"
        self.lock = directory / "run" / "plugins.lock"
        self.plugins = Plugins([str(directory / "none"), str(self.directory)], str(self.lock))
        self.kept: list[dict[str, Any]] = []

    def install(self, name: str, then: str = "") -> None:
        file = self.directory / name
        file.write_text(SAYS.format(log=self.log, then=then))
        file.chmod(0o755)

    async def keep(self, sandbox: Sandbox) -> None:
        assert sandbox.result is not None
        self.kept.append(sandbox.result)

    async def add(self) -> dict[str, Any] | None:
        return (await self.plugins.add(SANDBOX, self.keep)).result

    def calls(self) -> list[str]:
        return [" ".join(line.split()[:2]) for line in self.log.read_text().splitlines()]

    def asked(self, name: str, command: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(f"{self.log}.{name}.{command}").read_text())
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for plugin in CHAIN:
        world.install(plugin["type"])
    return world


@contextlib.contextmanager
def holding(path: Path, kind: int) -> Iterator[None]:
    with open(path, "a") as file:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        yield


async def test_each_plugin_is_given_the_result_of_the_one_before(world: World) -> None:
    assert await world.add() == {"by": "second"}
    assert world.kept == [{"by": "first"}, {"by": "second"}]
    assert world.calls() == ["first ADD", "second ADD"]
    assert world.asked("first", "ADD") == {"type": "first", "a": 1}
    assert world.asked("second", "ADD") == {"type": "second", "b": 2, "prevResult": {"by": "first"}}
    path = ":".join([str(world.directory.parent / "none"), str(world.directory)])
    assert world.log.read_text().splitlines()[0] == f"first ADD c1 /ns eth0 {path}"


async def test_they_are_undone_in_the_opposite_order_with_the_last_result(world: World) -> None:
    await world.plugins.delete(SANDBOX._replace(result={"by": "all"}))
    assert world.calls() == ["second DEL", "first DEL"]
    assert world.asked("first", "DEL")["prevResult"] == {"by": "all"}
    await world.plugins.delete(SANDBOX._replace(namespace=""))
    assert "prevResult" not in world.asked("first", "DEL")


async def test_an_undoing_that_fails_does_not_keep_the_others_from_theirs(world: World) -> None:
    for name in ("first", "second"):
        world.install(name, """echo "{\\"msg\\": \\"$(basename $0) is stuck\\"}"; exit 3""")
    with pytest.raises(OperationFailedError, match="CNI plugin second failed: second is stuck"):
        await world.plugins.delete(SANDBOX)
    assert world.calls() == ["second DEL", "first DEL"]


async def test_a_plugin_that_fails_ends_the_chain_and_what_was_given_so_far_is_known(world: World) -> None:
    world.install("second", "echo broken >&2; exit 1")
    with pytest.raises(OperationFailedError, match="CNI plugin second failed: broken"):
        await world.add()
    assert world.kept == [{"by": "first"}]


async def test_a_plugin_that_says_too_much_or_does_not_read_is_no_trouble(world: World) -> None:
    world.install("first", "head -c 1000000 /dev/zero >&2")
    world.install("second", "")
    (world.directory / "second").write_text('#!/bin/sh\nexec <&-\necho "{}"\n')
    assert await world.add() == {}


async def test_a_plugin_that_hangs_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install("first", f"echo $$ >{world.log}.pid; exec sleep 600")
    monkeypatch.setattr(plugins, "LIMIT", 0.5)
    with pytest.raises(OperationFailedError, match=r"first did not end within 0\.5 s"):
        await world.add()
    assert not os.path.exists(f"/proc/{Path(f'{world.log}.pid').read_text().strip()}")


async def test_a_program_that_cannot_be_run_is_named(world: World) -> None:
    (world.directory / "first").write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(OperationFailedError, match=r"cannot run .*/cni/first: Exec format error"):
        await world.add()


async def test_a_plugin_that_has_gone_meanwhile_is_named_with_its_package(world: World) -> None:
    (world.directory / "second").unlink()
    with pytest.raises(OperationFailedError, match="CNI plugin second is missing") as caught:
        await world.add()
    assert "Install the CNI plugins" in caught.value.hint


async def test_plugins_are_looked_for_in_all_directories(world: World) -> None:
    world.plugins.check(["first", "second"], packet_filter=False)
    (world.directory / "first").chmod(0o644)
    (world.directory / "second").unlink()
    (world.directory / "second").mkdir()
    with pytest.raises(ConflictError) as caught:
        world.plugins.check(["first", "second", "third"], packet_filter=False)
    text = f"needs the CNI plugins first, second, third, which are not in {world.directory.parent}/none, {world.directory}"
    assert text in str(caught.value)
    assert "Debian: containernetworking-plugins" in caught.value.hint


async def test_without_the_program_that_sets_rules_its_package_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_PATH", str(world.directory))
    world.plugins.check(["first"], packet_filter=False)
    with pytest.raises(ConflictError, match="the program iptables") as caught:
        world.plugins.check(["first"], packet_filter=True)
    assert "Install the package iptables, use network" in caught.value.hint
    world.install("iptables")
    with pytest.raises(ConflictError, match="the program ip6tables"):
        world.plugins.check(["first"], packet_filter=True)
    world.install("ip6tables")
    world.plugins.check(["first"], packet_filter=True)


async def test_every_plugin_holds_the_lock_while_it_runs(world: World) -> None:
    world.install("first", f"flock -n -x {world.lock} true && touch {world.log}.free; true")
    await world.add()
    assert not Path(f"{world.log}.free").exists()
    with holding(world.lock, fcntl.LOCK_EX):
        pass


async def test_plugins_of_an_earlier_agent_are_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.lock.parent.mkdir()
    monkeypatch.setattr(plugins, "LIMIT", 0.5)
    with (
        holding(world.lock, fcntl.LOCK_SH),
        pytest.raises(OperationFailedError, match=r"earlier agent did not end within 0\.5 s"),
    ):
        await world.add()
    assert not world.log.exists()
    assert caplog.text.count("are still running (waiting)") == 1
    assert await world.add() == {"by": "second"}


async def test_a_lock_that_cannot_be_made_is_named(world: World) -> None:
    world.lock.parent.write_text("a file")
    with pytest.raises(OperationFailedError, match=r"cannot use .*/plugins\.lock"):
        await world.add()
