# SPDX-License-Identifier: Apache-2.0
"""Descriptions that are too large, and large ones, as the manager takes them."""

import threading
from types import ModuleType

import pytest

from pycm.containers import launch, manager
from pycm.errors import InvalidInputError
from pycm.model.container import Resources, RestartPolicy, UpdateOptions
from pycm.model.frozen import replace
from support.managers import described, started, world


async def test_a_large_description_is_checked_and_turned_into_a_spec_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: dict[str, int] = {}

    def noted(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: object) -> object:
            threads[name] = threading.get_ident()
            return real(*arguments)

        monkeypatch.setattr(module, name, call)

    noted(manager, "validate")
    noted(launch, "build_spec")
    async with world() as w:
        await started(w)
    assert set(threads) == {"validate", "build_spec"}
    assert threading.get_ident() not in threads.values()


async def test_an_id_is_free_again_after_a_description_that_is_refused() -> None:
    async with world() as w:
        with pytest.raises(InvalidInputError, match="host_name"):
            await w.manager.create(replace(described(), host_name="h" * 65))
        assert (await w.manager.create(described())).id == "c1"


async def test_an_update_beyond_a_bound_changes_nothing() -> None:
    async with world() as w:
        await started(w)
        for options in (
            UpdateOptions(resources=Resources(cpuset_cpus="0," * 600)),
            UpdateOptions(restart_policy=RestartPolicy(type="on-failure", maximum_retry_count=2**31)),
        ):
            with pytest.raises(InvalidInputError, match="at most"):
                await w.manager.update("c1", options)
        assert "updated" not in w.actions
