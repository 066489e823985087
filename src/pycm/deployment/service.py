# SPDX-License-Identifier: Apache-2.0
"""Containers from descriptors: read a directory of descriptors, compare them with the containers, and make the
containers follow.

It runs once for each start of the agent, as a background task after the start of the containers that should run.
Descriptors are applied one after the other. Nothing in the directory, and no container that fails, ends the agent or
blocks another descriptor.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import stat
from collections import Counter
from contextlib import AsyncExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import (
    ConflictError,
    InvalidInputError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.failpoints import fail_point
from pycm.model.container import (
    LARGEST,
    ContainerConfiguration,
    HostConfig,
    IOConfig,
    Resources,
    UpdateOptions,
    read_descriptor,
)
from pycm.model.defaults import fill_defaults, fill_swap
from pycm.model.frozen import replace
from pycm.model.records import unknown_keys
from pycm.model.states import ALIVE, Status
from pycm.model.validation import check_id, check_name, validate
from pycm.storage.files import discard, make_directory, read_regular, write_atomic
from pycm.waiting import Backoff, Once, apart

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from pycm.config.types import Deployment as Settings
    from pycm.model.container import Container
    from pycm.ports import Containers, Images

SUFFIX = ".json"
#: Levels of directories, entries, descriptors, and bytes of all descriptors.
MOST_DEPTH, MOST_ENTRIES, MOST_FILES, MOST_BYTES = 16, 10_000, 512, 16 * 1024 * 1024
#: Unknown keys of a descriptor, and problems of a directory, in the log.
MOST_KEYS, MOST_PROBLEMS = 10, 100


# ── the directory ───────────────────────────────────────────────────────────────────────────────────────────────────


class Descriptor(NamedTuple):
    """The container that a file describes, with defaults. Its id is "" if the file has none; its name is always set."""

    path: str
    container: Container


class Found:
    """The content of a directory. `problems`: texts for the log, each with its file, without values of environments."""

    def __init__(self) -> None:
        self.descriptors: list[Descriptor] = []
        self.problems: list[str] = []

    def problem(self, path: str, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{shorten(path, 300)}: {text}")


def read_directory(directory: str) -> Found:
    """Read all `*.json` files in and below *directory*, in lexical order. Blocking. A missing directory is empty."""
    found = Found()
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    left = MOST_BYTES
    for number, path in enumerate(_files(directory, found)):
        if number >= MOST_FILES:
            found.problem(directory, f"more than {MOST_FILES} descriptors (the others are ignored)")
            break
        try:
            data = _read(path)
            left -= len(data)
            if left < 0:
                raise InvalidInputError(f"all descriptors together are larger than {MOST_BYTES} bytes")
            container = _container_in(data, path, found)
            for kind, text, taken in (("name", container.name, names), ("id", container.id, ids)):
                if text in taken:
                    raise InvalidInputError(
                        f"container_{kind} {text} is already used by {shorten(taken[text], 300)}"
                    )
        except InvalidInputError as error:
            found.problem(path, f"{error.masked} (skipped)")
        except OSError as error:
            found.problem(path, f"{error.strerror or error} (skipped)")
        else:
            found.descriptors.append(Descriptor(path, container))
            names[container.name] = path
            if container.id:
                ids[container.id] = path
    return found


def _files(directory: str, found: Found) -> Iterator[str]:
    """Paths of the descriptors below *directory*. Links to directories are not followed: they may form a cycle."""
    entries = 0
    waiting = [(directory, 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            mode = os.stat(path).st_mode if path == directory else os.lstat(path).st_mode
            if not stat.S_ISDIR(mode):
                if path == directory:
                    found.problem(path, "not a directory (nothing is deployed)")
                elif path.endswith(SUFFIX):
                    yield path
                continue
            with os.scandir(path) as listed:
                names = [entry.name for entry in islice(listed, MOST_ENTRIES + 1)]
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) and path == directory):
                found.problem(path, f"{error.strerror or error} (skipped)")
            continue
        entries += len(names)
        if entries > MOST_ENTRIES or depth >= MOST_DEPTH:
            limit = (
                f"more than {MOST_ENTRIES} entries"
                if entries > MOST_ENTRIES
                else f"deeper than {MOST_DEPTH} directories"
            )
            found.problem(path, f"{limit} (skipped)")
            continue
        waiting += [(os.path.join(path, name), depth + 1) for name in sorted(names, reverse=True)]


def _read(path: str) -> bytes:
    data = read_regular(path, LARGEST + 1, follow=True)
    if len(data) > LARGEST:
        raise InvalidInputError(f"larger than {LARGEST} bytes")
    return data


def _container_in(data: bytes, path: str, found: Found) -> Container:
    """Return the container that the file at *path* describes. Errors: InvalidInputError."""
    try:
        wanted = read_descriptor(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not UTF-8 at byte {error.start}") from None
    for number, (key, nearest) in enumerate(unknown_keys(wanted)):
        if number == MOST_KEYS:
            found.problem(path, "further unknown keys (ignored)")
            break
        meant = f"; did you mean {near}?" if (near := nearest()) else ""
        found.problem(path, f"unknown key {shorten(key)} (ignored{meant})")
    if wanted.id:
        check_id(wanted.id)
    container = fill_defaults(_named(wanted, path), new_id=lambda: "")
    validate(container)
    return container


def _named(wanted: Container, path: str) -> Container:
    """Give a descriptor without name and id the name of its file, which is the same at the next start."""
    name = wanted.name or wanted.id or os.path.basename(path)[: -len(SUFFIX)]
    if not wanted.name and not wanted.id:
        try:
            check_name(name)
        except InvalidInputError:
            raise InvalidInputError(
                f"has no container_name, and its file name {shorten(name)} is not a valid one"
            ) from None
        if not name:
            raise InvalidInputError("has no container_name, and its file has no name either")
    return replace(wanted, name=name)


INIT = "init"
#: Seconds that reading all descriptors may take; more means that their file system hangs.
READ = 60.0
#: Seconds between attempts to get an image that is away: the first pause and the longest.
FIRST_RETRY, LAST_RETRY = 5.0, 300.0
#: Kanto's mark that a first start has been, and ours that the first deployment of mode init is not finished.
MARKER, UNFINISHED = "deployment", "pycm/deployment.unfinished"
log = logging.getLogger("pycm.deployment")


# ── what to do ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Step(enum.Enum):
    CREATE = "create"
    RECREATE = "recreate"
    UPDATE = "update"
    CHECK = "check"


#: Steps that need an image.
NEW = frozenset({Step.CREATE, Step.RECREATE})


def find(wanted: Container, containers: Sequence[Container]) -> Container | None:
    """The container with the name of *wanted*, else with its id. Of several: with the id, running, the newest."""
    named = [container for container in containers if container.name == wanted.name]
    ranked = sorted(named, key=lambda c: (c.id == wanted.id, c.state.status in ALIVE))
    same_id = (container for container in containers if container.id == wanted.id)
    return ranked[-1] if ranked else next(same_id, None)


def decide(wanted: Container, current: Container | None) -> Step:
    """The step that makes *current* equal to *wanted*. See docs/deployment.md for what is not compared."""
    if current is None:
        return Step.CREATE
    if _fixed(wanted) != _fixed(current):
        return Step.RECREATE
    return Step.CHECK if _changeable(fill_swap(wanted)) == _changeable(current) else Step.UPDATE


def _fixed(container: Container) -> tuple[Any, ...]:
    """What only a new container can change. Order matters only in a command line."""
    host = container.host_config or HostConfig()
    config = container.config or ContainerConfiguration()
    io = container.io_config or IOConfig()
    many = (host.devices, host.extra_hosts, host.extra_capabilities, host.port_mappings, host.ulimits)
    return (
        container.image.name,
        replace(config, env=()),
        (io.open_stdin, io.tty, host.privileged, host.network_mode, host.log_config, host.seccomp_profile),
        [Counter(items) for items in (container.mount_points, config.env, *many)],
    )


def _changeable(container: Container) -> tuple[Any, ...]:
    host = container.host_config or HostConfig()
    return host.resources or Resources(), host.restart_policy


# ── the job ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Deployment:
    """Call `run` once, as a task. When it is cancelled, it finishes the container that it is changing, but waits for no
    image.

    *applied* is called when all descriptors whose images are on the device are applied.
    """

    def __init__(
        self,
        containers: Containers,
        images: Images,
        settings: Settings,
        applied: Callable[[], None] = lambda: None,
    ) -> None:
        self._containers = containers
        self._images = images
        self._settings = settings
        self._applied = applied
        self._unfinished = os.path.join(settings.home_dir, UNFINISHED)
        #: References of images on the device, as of the last round.
        self._here: set[str] = set()
        self._waiting = Once()

    async def run(self) -> None:
        """Return when every descriptor is applied or has failed."""
        directory = self._settings.ctr_dir
        try:
            if not await asyncio.to_thread(self._begin, empty=not self._containers.list()):
                log.info("deployment: skipped: mode init, and this is not the first start")
                return
            found = await apart("descriptors", lambda: read_directory(directory), READ)
        except asyncio.TimeoutError:  # before OSError, of which it is one from Python 3.11 on
            log.error("deployment: %s did not answer within %g s (nothing is deployed)", directory, READ)
            return
        except OSError as error:
            log.error("deployment: cannot write its marker: %s (nothing is deployed)", error)
            return
        for text in found.problems:
            log.warning("descriptor %s", text)
        await self._apply_all(found.descriptors)
        await asyncio.to_thread(discard, self._unfinished)

    def _begin(self, *, empty: bool) -> bool:
        """Whether this start deploys. OSError if mode init cannot write its marker: it would deploy every time."""
        init = self._settings.mode == INIT
        marker = os.path.join(self._settings.home_dir, MARKER)
        try:
            if init and not os.path.isdir(marker) and empty:
                make_directory(os.path.dirname(self._unfinished))
                write_atomic(self._unfinished, b"")
            make_directory(marker)
        except OSError:
            if init:
                raise
        fail_point("deployment.begun")
        return not init or os.path.exists(self._unfinished)

    async def _apply_all(self, descriptors: list[Descriptor]) -> None:
        pauses = Backoff(LAST_RETRY, FIRST_RETRY)
        left = await self._round(descriptors)
        while left:
            await asyncio.sleep(pauses.next())
            left = await self._round(left)
        log.info("deployment: finished: %d descriptors from %s", len(descriptors), self._settings.ctr_dir)

    async def _round(self, descriptors: list[Descriptor]) -> list[Descriptor]:
        """Apply each in order, those that need an image from a registry last. Return those that have to wait."""
        try:
            self._here = {image.reference for image in await self._images.list()}
        except PycmError:
            self._here = set()
        pulls = {descriptor.path for descriptor in descriptors if self._pulls(descriptor)}
        local = [descriptor for descriptor in descriptors if descriptor.path not in pulls]
        waiting = [descriptor for descriptor in local if not await self._apply(descriptor)]
        self._applied()
        others = [descriptor for descriptor in descriptors if descriptor.path in pulls]
        waiting += [descriptor for descriptor in others if not await self._apply(descriptor)]
        return [descriptor for descriptor in descriptors if descriptor in waiting]

    async def _apply(self, descriptor: Descriptor) -> bool:
        """False if it has to wait for its image, or for containerd."""
        name = descriptor.container.name
        where = shorten(descriptor.path, 300)
        try:
            await self._bring_about(descriptor)
        except UnavailableError as error:
            if self._waiting.is_new(error.masked, descriptor.path):
                log.warning("descriptor %s: container %s: %s (retrying)", where, name, error.detail)
            return False
        except PycmError as error:
            text = "descriptor %s: container %s: %s (not retried before the next start of the agent)"
            log.warning(text, where, name, error.detail)
        except Exception:
            log.exception(
                "descriptor %s: container %s: unexpected error (continuing with the next)", where, name
            )
        return True

    def _step(self, descriptor: Descriptor) -> tuple[Container | None, Step]:
        """In mode init, only complete what an interrupted first start began."""
        current = find(descriptor.container, self._containers.list())
        if current is not None and self._settings.mode == INIT:
            return current, Step.CHECK
        return current, decide(descriptor.container, current)

    def _pulls(self, descriptor: Descriptor) -> bool:
        current, step = self._step(descriptor)
        return step in NEW and not self._here.issuperset(self._needed(descriptor.container, current))

    def _needed(self, wanted: Container, current: Container | None) -> tuple[str, ...]:
        """Images that a new container needs: its own, and the earlier one's if a rollback is possible."""
        if current is None:
            return (wanted.image.name,)
        old = current.image.name
        restorable = current.state.status in ALIVE or old in self._here
        return (wanted.image.name, old) if restorable else (wanted.image.name,)

    async def _bring_about(self, descriptor: Descriptor) -> None:
        wanted = descriptor.container
        current, step = self._step(descriptor)
        if current is None or step is Step.RECREATE:
            async with AsyncExitStack() as held:
                for reference in self._needed(wanted, current):
                    await self._hold(held, reference)
                await _uncut(self._create(wanted) if current is None else self._replace(current, wanted))
            how = "created" if current is None else "replaced"
            log.info("container %s: %s from %s", wanted.name, how, shorten(descriptor.path, 300))
            return
        if self._settings.mode == INIT and current.started_successfully_before:
            return
        await _uncut(self._adapt(current, wanted, step))

    async def _hold(self, held: AsyncExitStack, reference: str) -> None:
        try:
            await held.enter_async_context(self._images.hold(reference))
        except InvalidInputError:
            raise
        except PycmError as error:  # network, registry or disk space may come back
            raise UnavailableError(str(error), masked=error.masked) from error

    async def _create(self, wanted: Container) -> None:
        made = await self._containers.create(wanted)
        fail_point("deployment.created")
        await self._containers.start(made.id)

    async def _replace(self, old: Container, wanted: Container) -> None:
        """Remove, then create: the new container has the id of the old one, unless its descriptor fixes another."""
        new = replace(wanted, id=wanted.id or old.id)
        if new.id != old.id and self._containers.get(new.id) is not None:
            raise ConflictError(f"container with id = {new.id} already exists")
        removed = False
        try:
            await self._containers.remove(old.id, force=True)
            removed = True
            fail_point("deployment.removed")
            await self._create(new)
        except PycmError:
            await self._go_back(old, new.id if removed else "")
            raise

    async def _go_back(self, old: Container, new_id: str) -> None:
        """Restore the earlier container. *new_id*: of the one that replaced it, "" if the earlier one exists."""
        try:
            if new_id and self._containers.get(new_id) is not None:
                await self._containers.remove(new_id, force=True)
            if new_id:
                await self._containers.create(_as_stored(old))
            await self._ensure_running(old.id)
        except PycmError as error:
            log.error("container %s: cannot restore the earlier one: %s", old.name, error.masked)
        else:
            log.warning(
                "container %s: rolled back: the new one did not start (the earlier one runs)", old.name
            )

    async def _adapt(self, current: Container, wanted: Container, step: Step) -> None:
        if current.name != wanted.name:
            await self._containers.rename(current.id, wanted.name)
        if step is Step.UPDATE:
            resources, policy = _changeable(fill_swap(wanted))
            await self._containers.update(
                current.id, UpdateOptions(restart_policy=policy, resources=resources)
            )
            log.info("container %s: limits and restart policy updated", wanted.name)
        await self._ensure_running(current.id)

    async def _ensure_running(self, container_id: str) -> None:
        current = self._containers.get(container_id)
        if current is not None and current.state.status is Status.PAUSED:
            await self._containers.unpause(container_id)
        elif current is None or current.state.status not in ALIVE:
            await self._containers.start(container_id)


def _as_stored(container: Container) -> Container:
    """Make a creation keep the stored limits: it would fill an empty memory_swap."""
    host, resources = container.host_config, container.resources
    if host is None or resources is None or not resources.memory or resources.memory_swap:
        return container
    return replace(container, host_config=replace(host, resources=replace(resources, memory_swap="-1")))


async def _uncut(work: Coroutine[Any, Any, None]) -> None:
    """Run *work* to its end, even if the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()):
            log.warning("deployment: failed while the agent stops: %s", error)
        raise
