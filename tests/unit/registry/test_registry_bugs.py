# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a pull worker, or in the care for images, ends what waits for it with an error and nothing else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pycm.errors import OperationFailedError
from pycm.registry import workers
from pycm.registry.job import Job
from pycm.registry.service import DAY, ImageService, Settings

if TYPE_CHECKING:
    from pathlib import Path


async def test_care_for_images_goes_on_after_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    service = ImageService(Settings("/nowhere.sock", "test", "lease"), dict)

    async def broken() -> float:
        raise ZeroDivisionError

    assert await service._retried(broken) == DAY
    assert "images: unexpected error" in caplog.text
    await service.close()


@pytest.mark.parametrize(("name", "said"), [("file", "cannot be read: Not a directory"), ("missing", "")])
async def test_preload_directory_that_is_none_is_an_error_in_the_log(
    name: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / name)
    service = ImageService(Settings("/nowhere.sock", "test", "lease", preload_dir=place), dict)
    running = asyncio.create_task(service.run())
    await asyncio.wait_for(service._preloaded.wait(), 60)
    assert caplog.messages == ([f"images: preload directory {place} {said}"] if said else [])
    await asyncio.wait_for(running, 60)
    await service.close()


async def test_worker_that_closes_its_output_and_stays_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "END", 0.01)
    output = asyncio.StreamReader()
    output.feed_eof()

    async def drain() -> None:
        pass

    process: Any = SimpleNamespace(
        stdin=SimpleNamespace(write=lambda _: None, drain=drain), stdout=output, wait=asyncio.Event().wait
    )
    job = Job("/nowhere.sock", "test", "overlayfs", "lease", "registry.test/a:1")
    with pytest.raises(OperationFailedError, match="closed its output without a result"):
        await workers._follow(process, job, lambda _: None)
