# SPDX-License-Identifier: Apache-2.0
"""A directory of descriptors, images of which some are away, and what the tests ask a manager."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from pycm.config.types import Deployment as Settings
from pycm.deployment.service import Deployment
from pycm.model import units
from pycm.ports import ImageInfo
from support.fakes import IMAGE, FakeImages, FakeRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pycm.errors import PycmError
    from pycm.model.states import Status
    from pycm.ports import LocalImage
    from support.managers import World

OTHER = "registry.test/demo/app:2.0"
AWAY = "registry.test/away/app:1.0"


class Images(FakeImages):
    """`away`: image to the error that its hold raises; `wait`: images that never come."""

    def __init__(self) -> None:
        super().__init__()
        self.away: dict[str, PycmError] = {}
        self.wait: set[str] = set()
        self.asked: list[str] = []
        for reference in (IMAGE, OTHER):
            self.images[reference] = ImageInfo(reference, "sha256:" + "1" * 64, 1, units.now())

    @contextlib.asynccontextmanager
    async def hold(self, reference: str) -> AsyncIterator[LocalImage]:
        self.asked.append(reference)
        async with super().hold(reference) as image:
            if reference in self.wait:
                await asyncio.Event().wait()
            if reference in self.away:
                raise self.away[reference]
            yield image


class Place:
    """A directory of descriptors and a home for the deployment's mark."""

    def __init__(self, root: Path) -> None:
        self.home, self.directory = root / "home", root / "manifests"
        self.directory.mkdir()
        self.images = Images()

    def write(self, name: str, image: str = IMAGE, **keys: Any) -> None:
        host = {"network_mode": "host", "restart_policy": {"type": "no"}, **keys.pop("host_config", {})}
        text = json.dumps({"image": {"name": image}, "host_config": host, **keys})
        (self.directory / f"{name}.json").write_text(text)

    def deployment(self, w: World, mode: str = "update") -> Deployment:
        return Deployment(
            w.manager, self.images, Settings(mode=mode, home_dir=str(self.home), ctr_dir=str(self.directory))
        )

    async def run(self, w: World, mode: str = "update") -> None:
        await self.deployment(w, mode).run()

    @property
    def marks(self) -> list[str]:
        files = self.home.rglob("*") if self.home.exists() else ()
        return sorted(str(path.relative_to(self.home)) for path in files)


def runtime() -> FakeRuntime:
    return FakeRuntime((IMAGE, OTHER, AWAY))


def by_name(w: World) -> dict[str, tuple[Status, str]]:
    return {c.name: (c.state.status, c.image.name) for c in w.manager.list()}


def id_of(w: World, name: str) -> str:
    return next(c.id for c in w.manager.list() if c.name == name)
