# SPDX-License-Identifier: Apache-2.0
"""The preload directory: archives and layouts that a device brings along, each imported once.

What was imported stands in containerd itself, as labels of a lease that holds nothing: a containerd that lost its store, or another
one beside the same directory, gets the images again. An archive counts as another one when its index.json differs, since in
reproducible builds sizes and times need not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING

from pycm.containerd import image_format
from pycm.containerd.client import Client
from pycm.containerd.marks import Marks
from pycm.containerd.pull_lease import PullLease
from pycm.errors import OperationFailedError, PycmError, UnavailableError, shorten
from pycm.failpoints import fail_point
from pycm.ports import PullStep
from pycm.registry.archive import INDEX, Layout, image_name
from pycm.registry.job import News
from pycm.registry.pull import Pull

if TYPE_CHECKING:
    from pycm.containerd.image_format import Descriptor
    from pycm.registry.job import Job
    from pycm.registry.worker import Reporter

#: Archives in the directory, images in an archive.
MOST_ARCHIVES, MOST_IMAGES = 200, 100
#: Bytes of the names of imported images, and of the failures, in the one line that reports both: it has job.LINE_LIMIT.
REPORT = 24 << 10


async def preload(job: Job, reporter: Reporter) -> News:
    """Import what is new in the directory. An archive that cannot be used is no reason to leave out the others."""
    reporter.say(PullStep.RESOLVING.value)
    client = Client(job.address, job.namespace)
    marks = Marks(client, f"{job.lease}.preloaded")
    images: list[str] = []
    failed: list[str] = []
    try:
        done = await marks.read()
        paths = await asyncio.to_thread(archives, job.preload)
        names = [os.path.basename(path) for path in paths]
        for path, name in zip(paths, names, strict=True):
            try:
                layout = await asyncio.to_thread(Layout, path)
                index = await asyncio.to_thread(layout.index)
                mark = hashlib.sha256(index).hexdigest()
                if done.get(name) != mark:
                    named = _named(layout, index)
                    if len(json.dumps([*images, *(reference for reference, _ in named)])) > REPORT:
                        raise OperationFailedError(
                            f"{layout.name}: left to the next start, after {len(images)} images of others"
                        )
                    images += await _import(job, client, reporter, layout, named)
                    await marks.add(name, mark, names)
            except UnavailableError:
                raise
            except PycmError as error:
                failed.append(f"{error}: its images are not imported")
    finally:
        client.close()
    return News(PullStep.DONE.value, images=tuple(images), failed=_reported(failed))


def _reported(failed: list[str]) -> tuple[str, ...]:
    """As many as the report has room for, and how many there are beyond."""
    room = REPORT
    for number, text in enumerate(failed):
        room -= len(json.dumps(text)) + 2
        if room < 0:
            return (*failed[:number], f"{len(failed) - number} more archives cannot be imported")
    return tuple(failed)


def archives(directory: str) -> list[str]:
    """Layout directories and tar archives in *directory*, which may be a layout itself."""
    if os.path.exists(os.path.join(directory, INDEX)):
        return [directory]
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise OperationFailedError(f"preload directory {shorten(directory)}: {error.strerror}") from None
    paths = [os.path.join(directory, name) for name in names if not name.startswith(".")]
    found = [path for path in paths if path.endswith(".tar") or os.path.exists(os.path.join(path, INDEX))]
    if len(found) > MOST_ARCHIVES:
        raise OperationFailedError(
            f"{len(found)} archives in {shorten(directory)}: {MOST_ARCHIVES} are possible"
        )
    return found


async def _import(
    job: Job, client: Client, reporter: Reporter, layout: Layout, named: list[tuple[str, Descriptor]]
) -> list[str]:
    """All images of the archive: first all of them are there, then they get their names."""
    lease = PullLease(client, job.lease, hashlib.sha256(os.fsencode(layout.path)).hexdigest()[:32])
    await lease.take()
    try:
        for name, root in named:
            pull = Pull(job, client, lease, reporter, name)
            await pull.content_of(layout, root)
        fail_point("registry.preload-fetched")
        for name, root in named:
            await pull.name(name, root, preloaded=True)
    except PycmError:
        with contextlib.suppress(PycmError):
            await lease.end()  # what is damaged is not worth keeping
        raise
    await lease.end()
    return [name for name, _ in named]


def _named(layout: Layout, index: bytes) -> list[tuple[str, Descriptor]]:
    what = f"{layout.name}: its {INDEX}"
    entries = image_format.index_or_manifest(image_format.parse(index, what), what)
    if not isinstance(entries, tuple) or not entries:
        raise OperationFailedError(f"{what} lists no images")
    if len(entries) > MOST_IMAGES:
        raise OperationFailedError(f"{what} lists {len(entries)} images, {MOST_IMAGES} are possible")
    named = [(image_name(entry), entry) for entry in entries]
    nameless = [entry.digest for name, entry in named if not name]
    if len(nameless) == len(named):
        raise OperationFailedError(f"{what} gives no image a full name such as registry.example/app:1.0")
    return [(name, entry) for name, entry in named if name]
