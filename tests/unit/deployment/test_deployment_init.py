# SPDX-License-Identifier: Apache-2.0
"""Mode init: descriptors are deployed at the first start of a device, and never again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from place import AWAY, OTHER, Place, by_name, id_of, runtime

from pycm.errors import UnavailableError
from pycm.model.states import Status
from support.fakes import IMAGE
from support.managers import described, world

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_init_deploys_at_the_first_start_only(place: Place, logged: Callable[[], list[str]]) -> None:
    place.write("a")
    async with world(runtime=runtime()) as w:
        await place.run(w, "init")
        assert set(by_name(w)) == {"a"}
        assert place.marks == ["deployment", "pycm"]
        await w.manager.remove(id_of(w, "a"), force=True)
        await place.run(w, "init")
        assert by_name(w) == {}
        assert logged()[-1] == "deployment: skipped: mode init, and this is not the first start"


async def test_init_is_skipped_where_a_container_exists_and_marks_the_first_start(place: Place) -> None:
    place.write("a")
    async with world(runtime=runtime()) as w:
        await w.manager.create(described("c1"))
        await place.run(w, "init")
        assert set(by_name(w)) == {"c1"}
        assert place.marks == ["deployment"]


async def test_init_is_skipped_after_a_start_in_mode_update_and_where_kanto_left_its_mark(
    place: Place,
) -> None:
    place.home.mkdir()
    (place.home / "deployment").mkdir()
    place.write("a")
    async with world(runtime=runtime()) as w:
        await place.run(w, "init")
        assert by_name(w) == {}


async def test_init_that_was_cut_short_is_completed_and_changes_nothing_that_is_done(place: Place) -> None:
    place.images.away[AWAY] = UnavailableError("registry is unreachable")
    place.write("a")
    place.write("b")
    place.write("c", AWAY)
    async with world(runtime=runtime()) as w:
        job = asyncio.create_task(place.run(w, "init"))
        await w.until(lambda: AWAY in place.images.asked)
        job.cancel()
        await asyncio.wait((job,))
        assert place.marks == ["deployment", "pycm", "pycm/deployment.unfinished"]
        await w.manager.stop(id_of(w, "a"))
        place.write("b", OTHER)
        place.images.away.clear()
        await place.run(w, "init")
        found = by_name(w)
        assert found == {
            "a": (Status.STOPPED, IMAGE),
            "b": (Status.RUNNING, IMAGE),
            "c": (Status.RUNNING, AWAY),
        }
        assert place.marks == ["deployment", "pycm"]


async def test_init_starts_what_an_interrupted_start_has_only_created(place: Place) -> None:
    place.write("a")
    async with world(runtime=runtime()) as w:
        w.runtime.fail["start"] = UnavailableError("containerd does not answer")
        job = asyncio.create_task(place.run(w, "init"))
        await w.until(lambda: any(call == "start" for call, _ in w.runtime.calls))
        job.cancel()
        await asyncio.wait((job,))
        del w.runtime.fail["start"]
        await place.run(w, "init")
        assert by_name(w) == {"a": (Status.RUNNING, IMAGE)}


@pytest.mark.parametrize(("mode", "names"), [("init", set()), ("update", {"a"})])
async def test_deployment_without_a_place_for_its_mark_deploys_in_mode_update_only(
    place: Place, logged: Callable[[], list[str]], mode: str, names: set[str]
) -> None:
    place.home.write_text("a file")
    place.write("a")
    async with world(runtime=runtime()) as w:
        await place.run(w, mode)
        assert set(by_name(w)) == names
    assert ("cannot write its marker" in logged()[0]) == (mode == "init")
