# SPDX-License-Identifier: Apache-2.0
"""The job that makes containers follow their descriptors, on a real manager with faked peers."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from place import AWAY, OTHER, Place, by_name, id_of, runtime

from pycm.deployment import service
from pycm.errors import InvalidInputError, OperationFailedError, PycmError, UnavailableError
from pycm.model.container import Image, StopOptions
from pycm.model.frozen import replace
from pycm.model.states import Status
from support.fakes import IMAGE, FakeRuntime
from support.managers import described, started, world

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.ports import ImageInfo, LocalImage


async def test_deployment_creates_and_starts_each_descriptor_in_order(place: Place) -> None:
    place.write("b", container_id="fixed")
    place.write("a")
    async with world(runtime=runtime()) as w:
        await place.run(w)
        assert by_name(w) == {"a": (Status.RUNNING, IMAGE), "fixed": (Status.RUNNING, IMAGE)}
        assert w.manager.get("fixed") is not None
        assert [event.container.name for event in w.events] == ["a", "a", "fixed", "fixed"]
        assert place.images.holding == []
        assert place.marks == ["deployment"]
        assert (place.home / "deployment").stat().st_mode & 0o777 == 0o711


async def test_deployment_at_the_next_start_changes_nothing(place: Place) -> None:
    place.write("a")
    place.write("b", container_id="fixed", host_config={"resources": {"memory": "100M"}})
    async with world(runtime=runtime()) as w:
        await place.run(w)
        before, calls = w.manager.list(), len(w.runtime.calls)
        await place.run(w)
        assert w.manager.list() == before
        assert len(w.runtime.calls) == calls
        assert place.images.asked == [IMAGE, IMAGE]


async def test_deployment_never_removes_a_container_without_a_descriptor(place: Place) -> None:
    place.write("a")
    async with world(runtime=runtime()) as w:
        await started(w, "c1")
        await place.run(w)
        assert set(by_name(w)) == {"c1", "a"}
        assert w.state("c1").status is Status.RUNNING


@pytest.mark.parametrize("state", ["created", "stopped", "exited", "paused"])
async def test_deployment_starts_what_does_not_run(place: Place, state: str) -> None:
    place.write("c1")
    async with world(runtime=runtime()) as w:
        await w.manager.create(described("c1"))
        if state != "created":
            await w.manager.start("c1")
        if state == "stopped":
            await w.manager.stop("c1", StopOptions())
        elif state == "exited":
            w.runtime.end("c1", 0)
            await w.until(lambda: w.state("c1").status is Status.EXITED)
        elif state == "paused":
            await w.manager.pause("c1")
        await place.run(w)
        assert w.state("c1").status is Status.RUNNING
        assert [c.id for c in w.manager.list()] == ["c1"]


async def test_deployment_updates_limits_and_policy_while_the_container_runs(place: Place) -> None:
    resources = {"memory": "200M"}
    place.write("c1", host_config={"restart_policy": {"type": "always"}, "resources": resources})
    async with world(runtime=runtime()) as w:
        pid = (await started(w, "c1")).pid
        await place.run(w)
        found = w.manager.get("c1")
        assert found is not None
        assert found.resources is not None
        assert (found.resources.memory, found.resources.memory_swap) == ("200M", "400M")
        assert w.state("c1").pid == pid
        place.write("c1")
        await place.run(w)
        found = w.manager.get("c1")
        assert found is not None
        assert found.host_config is not None
        assert (found.resources, found.host_config.restart_policy) == (
            None,
            described("c1").host_config.restart_policy,
        )  # type: ignore[union-attr]
        assert w.actions[-2:] == ["updated", "updated"]


async def test_deployment_renames_the_container_with_its_id(place: Place) -> None:
    place.write("x", container_id="c1", container_name="new")
    async with world(runtime=runtime()) as w:
        pid = (await started(w, "c1")).pid
        await place.run(w)
        assert by_name(w) == {"new": (Status.RUNNING, IMAGE)}
        assert w.state("c1").pid == pid


@pytest.mark.parametrize("keys", [{}, {"container_id": "c1"}, {"container_id": "c2", "container_name": "c1"}])
async def test_deployment_replaces_a_container_and_keeps_its_id_unless_the_file_says_another(
    place: Place, keys: dict[str, str]
) -> None:
    place.write("c1", OTHER, **keys)
    async with world(runtime=runtime()) as w:
        await started(w, "c1")
        await place.run(w)
        assert by_name(w) == {"c1": (Status.RUNNING, OTHER)}
        assert id_of(w, "c1") == keys.get("container_id", "c1")
        assert w.runtime.snapshots == {id_of(w, "c1")}
        assert place.images.asked == [OTHER, IMAGE]


class Failing(FakeRuntime):
    """`refuses`: a method and the image for which it fails."""

    refuses: tuple[str, str] = ("", "")

    async def start(self, request: Any, created: Any = None) -> int:
        self._refuse("start", request.image)
        return await super().start(request, created)

    async def prepare(self, container_id: str, image: LocalImage) -> None:
        self._refuse("prepare", image.reference)
        await super().prepare(container_id, image)

    def _refuse(self, method: str, image: str) -> None:
        if self.refuses == (method, image):
            raise OperationFailedError("no such program")


@pytest.mark.parametrize("method", ["prepare", "start"])
@pytest.mark.parametrize("keys", [{}, {"container_id": "c1"}, {"container_id": "c2", "container_name": "c1"}])
async def test_deployment_goes_back_to_the_earlier_container_where_the_new_one_fails(
    place: Place, logged: Callable[[], list[str]], method: str, keys: dict[str, str]
) -> None:
    place.write("c1", OTHER, **keys)
    place.write("d")
    failing = Failing((IMAGE, OTHER))
    failing.refuses = (method, OTHER)
    async with world(runtime=failing) as w:
        await started(w, "c1", policy="always", resources=None)
        await place.run(w)
        assert by_name(w) == {"c1": (Status.RUNNING, IMAGE), "d": (Status.RUNNING, IMAGE)}
        assert id_of(w, "c1") == "c1"
        assert w.runtime.snapshots == {"c1", id_of(w, "d")}
        first, second = logged()[:2]
        assert first == "container c1: rolled back: the new one did not start (the earlier one runs)"
        assert second.startswith(f"descriptor '{place.directory}/c1.json': container c1: no such program")
        assert second.endswith("(not retried before the next start of the agent)")


async def test_deployment_keeps_the_earlier_container_where_it_cannot_be_removed(
    place: Place, logged: Callable[[], list[str]]
) -> None:
    place.write("c1", OTHER)
    async with world(runtime=runtime()) as w:
        await started(w, "c1")
        w.runtime.fail["remove"] = OperationFailedError("snapshot is busy")
        await place.run(w)
        assert by_name(w) == {"c1": (Status.RUNNING, IMAGE)}
        assert "snapshot is busy" in logged()[1]


async def test_deployment_says_when_the_earlier_container_cannot_be_restored(
    place: Place, logged: Callable[[], list[str]]
) -> None:
    place.write("c1", OTHER)
    async with world(runtime=runtime()) as w:
        await started(w, "c1")
        w.runtime.fail["prepare"] = OperationFailedError("no room")
        await place.run(w)
        assert by_name(w) == {}
        assert logged()[0] == "container c1: cannot restore the earlier one: no room"
        del w.runtime.fail["prepare"]
        await place.run(w)
        assert by_name(w) == {"c1": (Status.RUNNING, OTHER)}


async def test_deployment_restores_limits_as_they_were_stored(place: Place) -> None:
    """An empty memory_swap means that swap is not limited; a creation would fill it."""
    place.write("c1", host_config={"resources": {"memory": "100M", "memory_swap": "-1"}})
    failing = Failing((IMAGE, OTHER))
    failing.refuses = ("start", OTHER)
    async with world(runtime=failing) as w:
        await place.run(w)
        before = w.manager.list()[0].resources
        place.write("c1", OTHER)
        await place.run(w)
        assert w.manager.list()[0].image.name == IMAGE
        assert w.manager.list()[0].resources == before


async def test_deployment_does_not_take_the_id_of_another_container(place: Place) -> None:
    place.write("x", OTHER, container_id="c2", container_name="c1")
    async with world(runtime=runtime()) as w:
        await started(w, "c1")
        await started(w, "c2")
        await place.run(w)
        assert by_name(w) == {"c1": (Status.RUNNING, IMAGE), "c2": (Status.RUNNING, IMAGE)}
        assert w.actions == ["created", "running"] * 2


@pytest.mark.parametrize(
    "error", [UnavailableError("registry is unreachable"), OperationFailedError("no room on the disk")]
)
async def test_deployment_applies_others_first_and_retries_an_image_that_is_away(
    place: Place, logged: Callable[[], list[str]], error: PycmError
) -> None:
    place.images.away[AWAY] = error
    place.write("a", AWAY)
    place.write("b", AWAY)
    place.write("c")
    async with world(runtime=runtime()) as w:
        job = asyncio.create_task(place.run(w))
        await w.until(lambda: place.images.asked.count(AWAY) > 6)
        assert by_name(w) == {"c": (Status.RUNNING, IMAGE)}
        assert place.images.asked[:3] == [IMAGE, AWAY, AWAY]
        waits = [line for line in logged() if line.endswith(f"{error} (retrying)")]
        assert len(waits) == 2  # once a descriptor, however often it is asked for
        place.images.away.clear()
        await job
        assert set(by_name(w)) == {"a", "b", "c"}
        assert logged()[-1] == f"deployment: finished: 3 descriptors from {place.directory}"


async def test_deployment_leaves_a_running_container_alone_until_the_new_image_is_here(place: Place) -> None:
    place.images.away[AWAY] = UnavailableError("registry is unreachable")
    place.write("c1", AWAY)
    async with world(runtime=runtime()) as w:
        pid = (await started(w, "c1")).pid
        job = asyncio.create_task(place.run(w))
        await w.until(lambda: place.images.asked.count(AWAY) > 2)
        assert w.state("c1").pid == pid
        place.images.away.clear()
        await job
        assert by_name(w) == {"c1": (Status.RUNNING, AWAY)}


async def test_deployment_replaces_a_container_that_neither_runs_nor_has_an_image(place: Place) -> None:
    """As after a change of the root slot, if containerd's images lie on it: the earlier image may exist nowhere any more."""
    place.write("c1")
    place.images.away[AWAY] = UnavailableError("registry is unreachable")
    async with world(runtime=runtime()) as w:
        await w.manager.create(replace(described("c1"), image=Image(name=AWAY)))
        await place.run(w)
        assert by_name(w) == {"c1": (Status.RUNNING, IMAGE)}


async def test_deployment_waits_for_the_image_of_a_running_container_that_it_may_have_to_restore(
    place: Place,
) -> None:
    place.write("c1")
    place.images.away[AWAY] = UnavailableError("registry is unreachable")
    async with world(runtime=runtime()) as w:
        await w.manager.create(replace(described("c1"), image=Image(name=AWAY)))
        await w.manager.start("c1")
        job = asyncio.create_task(place.run(w))
        await w.until(lambda: place.images.asked.count(AWAY) > 2)
        assert by_name(w) == {"c1": (Status.RUNNING, AWAY)}
        place.images.away.clear()
        await job
        assert by_name(w) == {"c1": (Status.RUNNING, IMAGE)}


async def test_deployment_retries_when_containerd_is_away_and_not_what_is_invalid(place: Place) -> None:
    place.images.away[AWAY] = InvalidInputError("not a reference")
    place.write("a", AWAY)
    place.write("b")
    async with world(runtime=runtime()) as w:
        w.runtime.fail["start"] = UnavailableError("containerd does not answer")
        job = asyncio.create_task(place.run(w))
        await w.until(lambda: w.runtime.calls.count(("start", id_of(w, "b"))) > 2 if by_name(w) else False)
        del w.runtime.fail["start"]
        await job
        assert by_name(w) == {"b": (Status.RUNNING, IMAGE)}
        assert place.images.asked.count(AWAY) == 1


async def test_deployment_works_where_images_cannot_be_listed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> list[ImageInfo]:
        raise UnavailableError("containerd does not answer")

    monkeypatch.setattr(place.images, "list", fails)
    place.write("a")
    async with world(runtime=runtime()) as w:
        await place.run(w)
        assert set(by_name(w)) == {"a"}


async def test_deployment_goes_on_after_a_bug(
    place: Place, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    place.write("a")
    place.write("b")
    async with world(runtime=runtime()) as w:
        create = w.manager.create

        async def broken(container: Any) -> Any:
            if container.name == "a":
                raise ZeroDivisionError
            return await create(container)

        monkeypatch.setattr(w.manager, "create", broken)
        await place.run(w)
        assert set(by_name(w)) == {"b"}
        assert "unexpected error (continuing with the next)" in logged()[0]


async def test_deployment_names_bad_files_and_applies_the_others(
    place: Place, logged: Callable[[], list[str]]
) -> None:
    (place.directory / "bad.json").write_text("not json")
    place.write("good")
    async with world(runtime=runtime()) as w:
        await place.run(w)
        assert set(by_name(w)) == {"good"}
        assert logged()[0].startswith(f"descriptor '{place.directory}/bad.json': not valid JSON")


async def test_deployment_gives_up_a_directory_that_does_not_answer(
    place: Place, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    place.write("a")
    fifo = place.home.parent / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(service, "READ", 0.01)
    monkeypatch.setattr(service, "read_directory", lambda _directory: fifo.read_bytes())
    async with world(runtime=runtime()) as w:
        await place.run(w)
        assert by_name(w) == {}
        assert logged() == [
            f"deployment: {place.directory} did not answer within 0.01 s (nothing is deployed)"
        ]
    fifo.write_bytes(b"")  # ends the thread


# ── the end of the agent ────────────────────────────────────────────────────────────────────────────────────────────


async def test_deployment_that_is_cancelled_does_not_wait_for_an_image(place: Place) -> None:
    place.images.wait.add(AWAY)
    place.write("c1", AWAY)
    async with world(runtime=runtime()) as w:
        pid = (await started(w, "c1")).pid
        job = asyncio.create_task(place.run(w))
        await w.until(lambda: AWAY in place.images.holding)
        job.cancel()
        await asyncio.wait((job,))
        assert job.cancelled()
        assert (w.state("c1").pid, place.images.holding) == (pid, [])


async def test_deployment_that_is_cancelled_finishes_the_container_that_it_changes_and_no_other(
    place: Place,
) -> None:
    place.write("c1", OTHER)
    place.write("d")
    async with world(runtime=runtime(), stop_timeout=0.05) as w:
        await started(w, "c1")
        w.runtime.stubborn.add("c1")
        job = asyncio.create_task(place.run(w))
        await w.until(lambda: ("signal", "c1") in w.runtime.calls)
        job.cancel()
        await asyncio.wait((job,))
        assert job.cancelled()
        assert by_name(w) == {"c1": (Status.RUNNING, OTHER)}
