# SPDX-License-Identifier: Apache-2.0
"""The composition root: build every room, hand the outside rooms to the core and the fronts, run them, stop them.

Start: lock, stored containers, API, then containerd, which may be unavailable, and the containers that should run.
Descriptors whose images are here follow. MQTT and the care for images come last, so that nothing that waits for a
network delays a container.

End (SIGTERM, SIGINT, SIGQUIT, SIGHUP): the API closes first, so that nothing new begins. Containers run on unless
`manager.live_restore` is false. The twin stops last, so that it still reports what happened. Each step has a time
limit, and the process does not wait for its threads: one of them may hang in a file system that is unreachable.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pycm import __version__
from pycm.api.server import Server, tcp_address
from pycm.api.server.operations import Rooms
from pycm.config.load import Note, degraded
from pycm.containerd.runtime import ContainerdRuntime
from pycm.containers.catalog import Catalog
from pycm.containers.manager import Manager
from pycm.containers.sessions import Sessions
from pycm.errors import ConfigError, ConflictError, OperationFailedError, PycmError
from pycm.logfile import setup as set_up_logging
from pycm.logs.front import JsonFileLogs
from pycm.metrics.sampler import Sampler
from pycm.model.states import ALIVE
from pycm.model.units import size_to_bytes
from pycm.network.modes import Networks
from pycm.ports import Action
from pycm.registry.job import Access
from pycm.registry.service import ImageService
from pycm.registry.service import Settings as ImageSettings
from pycm.storage import mounts
from pycm.storage.files import make_directory
from pycm.storage.store import ContainerStore
from pycm.systemd import Supervisor
from pycm.waiting import Once, apart, cancel, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from types import FrameType

    from pycm.config.load import Source
    from pycm.config.types import Config
    from pycm.mqtt.settings import Source as LoginSource
    from pycm.ports import Event
    from pycm.twin.service import TwinService

log = logging.getLogger("pycm.agent")

#: Four descriptors of kept cgroup files, logs and FIFOs a container add up: room for some hundred containers.
OPEN_FILES = 8192
#: Threads for disk writes, image look-ups and MQTT connects; more would only cost memory.
WORKERS = 4
#: Seconds between attempts to open the API if its address is unusable, such as one of an interface that comes later.
API_RETRY = 5.0
#: Seconds that MQTT and the care for images wait for containerd's first answer, then for containers and for
# descriptors.
ANSWER, BOOT = 10.0, 120.0
#: Signals that end the agent; SIGHUP too, as in Kanto (it does not reload).
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
#: Time limits in seconds: a step of the end, the rest of a start that a signal interrupts, and the whole end.
STEP, START, ALL = 10.0, 10.0, 50.0


def run(config: Config, notes: Sequence[Note], source: Source | None = None) -> int:
    """Run the agent until a signal ends it. Return the exit code; if the start fails, print one line to stderr.

    *source*: the files of *config*, whose login at the broker may change while the agent runs.
    """
    # systemd's watchdog ends a hanging agent by SIGABRT: this writes to the journal where it hung
    faulthandler.enable(2)
    try:
        set_up_logging(config.log)
        config, more = settle(config)
        for note in (*notes, *more):
            log.log(note.level, "%s", note.text)
        take_lock(config.manager.exec_root_dir)
        lock_state(config.manager.home_dir)
    except PycmError as error:
        _print(error)
        return 1
    try:
        raise_open_files()
        code = asyncio.new_event_loop().run_until_complete(_serve(config, source))
    except PycmError as error:
        _print(error)
        log.error("agent ends: %s", error.detail)
        code = 1
    except BaseException:  # noqa: BLE001  a bug, which ends the process all the same
        sys.excepthook(*sys.exc_info())
        code = 1
    return _leave(code)


def _print(error: PycmError) -> None:
    print(f"Error: {error.printed}", file=sys.stderr)


def _leave(code: int) -> int:
    """End the process, which releases its locks. Python itself would wait for the threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def settle(config: Config) -> tuple[Config, list[Note]]:
    """Disable functions whose rooms refuse their section, and return the errors. The machine is not examined."""
    errors = []
    checks = (("grpc_server", lambda one: tcp_address(one.grpc_server)), ("connection", _check_mqtt))
    for section, check in checks:
        try:
            check(config)
        except ConfigError as error:
            config, reason = degraded(config, (section,), str(error))
            errors.append(Note(logging.ERROR, reason))
    return config, errors


def _check_mqtt(config: Config) -> None:
    from pycm.mqtt.settings import check

    if config.things.enable:
        check(config.connection)


def take_lock(exec_root: str) -> int:
    """Return the descriptor of the run lock. ConflictError if another agent holds it; the kernel frees that of a
    crashed one.
    """
    path = os.path.join(exec_root, "lock")
    try:
        make_directory(exec_root)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OperationFailedError(f"cannot use {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConflictError(f"resource temporarily unavailable: another agent holds {path}") from error
    return descriptor


def lock_state(home: str) -> int:
    """Lock the directory of the state itself. This writes nothing, so it works on a read-only disk.

    The run lock, which Kanto knows, is in a directory that another agent may have configured differently.
    """
    try:
        make_directory(home)
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OperationFailedError(f"cannot use {home}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(f"resource temporarily unavailable: another agent uses {home}") from error
    except OSError as error:  # a network file system, for instance
        log.warning("%s: no lock against a second agent: %s (continuing)", home, error.strerror)
    return descriptor


def raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def image_settings_of(config: Config) -> ImageSettings:
    containers = config.containers
    configured = {
        host: Access(
            user=registry.credentials.user_id,
            password=registry.credentials.password,
            root_ca=registry.transport.root_ca,
            client_cert=registry.transport.client_cert,
            client_key=registry.transport.client_key,
            usable=registry.usable,
        )
        for host, registry in containers.registry_configurations.items()
    }
    return ImageSettings(
        address=containers.address_path,
        namespace=containers.default_ns,
        lease=containers.lease_id,
        configured=configured,
        insecure=containers.insecure_registries,
        expiry=None if containers.image_expiry_disable else containers.image_expiry,
        preload_dir=containers.preload_dir,
        home_dir=config.manager.home_dir,
    )


class Agent:
    """All rooms, built from one configuration, and the order in which they start and stop."""

    def __init__(self, config: Config, source: Source | None = None) -> None:
        manager, containers = config.manager, config.containers
        self.config = config
        cap = containers.log_total_max_size
        self.logs = JsonFileLogs(
            containers.home_dir, containers.exec_root_dir, size_to_bytes(cap) if cap else 0
        )
        self.metrics = Sampler()
        self.runtime = ContainerdRuntime(
            containers.address_path,
            namespace=containers.default_ns,
            lease=containers.lease_id,
            exec_dir=os.path.join(containers.exec_root_dir, "exec"),
        )
        catalog = Catalog(ContainerStore(manager.home_dir))
        self.images = ImageService(image_settings_of(config), catalog.images)
        self.network = Networks(manager.home_dir, config.network)
        self.containers = Manager(
            catalog=catalog,
            runtime=self.runtime,
            images=self.images,
            logs=self.logs,
            metrics=self.metrics,
            network=self.network,
            config=config,
        )
        sessions = Sessions(self.containers, self.runtime, self.logs)
        rooms = Rooms(self.containers, self.logs, sessions, self.metrics, self.images)
        self.server = Server(rooms, config.grpc_server)
        self._source = source
        self.twin: TwinService | None = None
        self._ended, self._applied = asyncio.Event(), asyncio.Event()
        self._follow: asyncio.Task[None] | None = None
        self._images: asyncio.Task[None] | None = None
        self._api: asyncio.Task[None] | None = None
        self._cloud: asyncio.Task[None] | None = None
        self._deployment: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(mounts.unmount_snapshots, self.config.manager.home_dir)
        await self.network.prepare()
        await self.containers.load()
        await self._open_api()
        self._follow = asyncio.create_task(self.containers.run())
        self._follow.add_done_callback(lambda _task: self._ended.set())
        self.containers.subscribe(self._image_unused)
        self._cloud = asyncio.create_task(self._after_containers())
        self._cloud.add_done_callback(self._part_done)
        if self.config.deployment.enable:
            self._deployment = asyncio.create_task(self._deploy())
            self._deployment.add_done_callback(lambda _task: self._applied.set())

    async def _after_containers(self) -> None:
        """Start MQTT and the care for images, which would delay the start of containers."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(ANSWER, self.containers.reached.wait())
            await within(BOOT, self.containers.booted.wait())
            if self._deployment is not None:
                await within(BOOT, self._applied.wait())
        self._images = asyncio.create_task(self.images.run())
        if self.config.things.enable:
            self.twin = make_twin(self.config, self.containers, self.metrics, self._source)
            await self.twin.start()
        gc.collect()
        gc.freeze()  # later collections skip what exists now, since it stays

    def _part_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._ended.set()

    async def _deploy(self) -> None:
        update, top = self.config.deployment.mode != "init", self.config.deployment.ctr_dir
        await self.containers.booted.wait()
        with contextlib.suppress(asyncio.TimeoutError, OSError):  # the deployment reports it
            if update and await apart("descriptors", lambda: not (os.path.lexists(top) and os.listdir(top))):
                return  # only mode init records its first start
        from pycm.deployment.service import Deployment  # imported only if there are descriptors

        try:
            await Deployment(self.containers, self.images, self.config.deployment, self._applied.set).run()
        except Exception:
            log.exception("deployment: a bug (the agent continues)")

    async def _open_api(self) -> None:
        """Open the API. Containers and twin work without it, so an unusable address does not end the agent."""
        try:
            await self.server.start()
        except ConfigError as error:
            self._api = asyncio.create_task(self._retry_api(error))

    async def _retry_api(self, error: PycmError | None) -> None:
        once = Once()
        while error is not None:
            if once.is_new(str(error)):
                log.error("API unavailable: %s (retrying every %g s)", error.detail, API_RETRY)
            await asyncio.sleep(API_RETRY)
            try:
                await self.server.start()
                error = None
            except PycmError as again:
                error = again

    def _image_unused(self, event: Event) -> None:
        if event.action is Action.REMOVED:
            self.images.container_removed()

    def healthy(self) -> bool:
        """Whether the manager follows containerd. A caller that gets an answer knows that the event loop runs."""
        return self._follow is not None and not self._follow.done()

    def status(self) -> str:
        """Return the line for `systemctl status`."""
        known = self.containers.list()
        alive = sum(container.state.status in ALIVE for container in known)
        return f"pycm {__version__}: {alive} of {len(known)} containers run"

    def heed_signals(self) -> None:
        """Handle signals from before the start on: one that arrives meanwhile ends the agent once it has started."""
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self._end, number)
            signal.signal(number, self._limit_end)  # the loop still gets the signal

    def _limit_end(self, _number: int, _frame: FrameType | None) -> None:
        """End the process in time even if the loop hangs; stderr then shows where all threads were."""
        stops = 0.0 if self.config.manager.live_restore else 2 * self.config.manager.default_ctrs_stop_timeout
        faulthandler.dump_traceback_later(ALL + stops, exit=True, file=2)

    async def ended(self) -> None:
        """Wait for a signal, or for the end of a part that must not end."""
        await self._ended.wait()

    def _end(self, number: int) -> None:
        log.info("agent ends: %s", signal.Signals(number).name)
        self._ended.set()

    async def stop(self) -> int:
        """Stop all rooms. Return the exit code: 1 after a bug, so that the supervisor restarts the agent."""
        manager = self.config.manager
        bugs = [_failure(task) for task in (self._follow, self._cloud) if task is not None and task.done()]
        failed = any(bugs) or (self._follow is not None and self._follow.done())
        await _step("API", self._end_api())
        await _step("start", cancel(self._cloud))
        await _step("deployment", cancel(self._deployment))  # it finishes the container that it is changing
        await _step("images", self._end_images())  # ends creations that wait for an image
        stops = 0.0 if manager.live_restore else 2 * manager.default_ctrs_stop_timeout
        await _step("containers", self.containers.close(), STEP + 5 + stops)
        await _step("events", cancel(self._follow))
        await _step("logs", self.logs.close())
        if self.twin is not None:
            await _step("twin", self.twin.stop())
        await _step("containerd", self.runtime.close())
        for bug in filter(None, bugs):
            log.error("agent: a part of it ended: %r", bug)
        return 1 if failed else 0

    async def _end_api(self) -> None:
        await cancel(self._api)
        await self.server.close()

    async def _end_images(self) -> None:
        await cancel(self._images)
        await self.images.close()


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _step(what: str, work: Awaitable[object], limit: float = STEP) -> None:
    """Do one step of the end. Neither its failure nor a thread that it waits for prevents the next ones."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait((task,), timeout=limit)
    if not done:
        log.error("end of the agent: %s: no end within %g s (continuing without it)", what, limit)
    elif not task.cancelled() and (error := task.exception()):
        log.error("end of the agent: %s: %r", what, error)


def make_twin(config: Config, containers: Manager, metrics: Sampler, source: Source | None) -> TwinService:
    # imported only if the twin is enabled
    from pycm.http.download import WebDownloads
    from pycm.mqtt.client import MqttClient
    from pycm.twin.service import TwinService

    mqtt = MqttClient(config.connection, source=_login_source(source))
    downloads = WebDownloads(private=config.things.private_downloads)
    return TwinService(mqtt, containers, metrics, config.things, downloads=downloads)


def _login_source(source: Source | None) -> LoginSource | None:
    from pycm.mqtt.settings import Source as LoginSource

    if source is None or not source.path:
        return None
    read = source.read
    return LoginSource(source.path, lambda: read().connection)


async def _serve(config: Config, source: Source | None) -> int:
    supervisor = Supervisor.from_environment()
    try:
        return await _supervised(config, supervisor, source)
    finally:
        supervisor.close()


async def _supervised(config: Config, supervisor: Supervisor, source: Source | None) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(WORKERS, thread_name_prefix="worker"))
    agent = Agent(config, source)
    agent.heed_signals()
    try:
        await _start(agent)
    except BaseException:
        await agent.stop()
        raise
    log.info("pycm %s is ready", __version__)
    supervisor.ready(agent.status())
    supervisor.watch(agent.healthy, agent.status)
    await agent.ended()
    supervisor.stopping()
    return await agent.stop()


async def _start(agent: Agent) -> None:
    """Start *agent*. OperationFailedError if a signal arrives meanwhile and the start then takes longer than START."""
    start, end = asyncio.ensure_future(agent.start()), asyncio.ensure_future(agent.ended())
    await asyncio.wait((start, end), return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait((start,), timeout=START)
    end.cancel()
    if not start.done():
        start.cancel()
        raise OperationFailedError(f"a signal ended the start, which did not finish within {START:g} s")
    start.result()
