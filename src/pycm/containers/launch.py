# SPDX-License-Identifier: Apache-2.0
"""From a container's description to what containerd needs to start it: image configuration, user, files, OCI spec."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    UnavailableError,
    shorten,
)
from pycm.failpoints import fail_point
from pycm.model import units
from pycm.model.container import Container, ContainerConfiguration, HostConfig, MountPoint, StopOptions
from pycm.model.defaults import RUNC_FAMILY
from pycm.model.frozen import replace
from pycm.model.units import parse_signal, signal_name, size_to_bytes
from pycm.oci import machine
from pycm.oci.machine import Devices, HostDevices, online_cpus
from pycm.oci.spec import HOOK_KEYS, HostFacts, build_spec, check_cpus
from pycm.oci.user import GROUP, PASSWD, ProcessUser, resolve_user
from pycm.ports import Exit, Logs, Metrics, Network, Runtime, TaskIO, TaskRequest
from pycm.storage.mounts import see_as_server
from pycm.waiting import LOOK, apart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from pycm.config.types import Config
    from pycm.oci.machine import Device

SIGKILL = 9
#: At most this many containers are started, reconciled or checked at once: each start runs programs.
PARALLEL = 8
#: Longest timeout of a stop, in seconds.
LONGEST_STOP = 24 * 3600
#: /etc/passwd and /etc/group of an image are read up to this size.
MAX_USER_FILE = 1024 * 1024
#: Below this limit a start may fail because memory is missing: runc needs 4 to 6 MiB.
RUNTIME_MEMORY = 16 * 1024 * 1024
#: Paths of the machine that a container may mount as in the original; the log says what they give away.
_HOST_PATHS = {
    "/": "the whole file system of the machine",
    "/proc": "the kernel's view of all processes",
    "/sys": "the kernel's settings",
    "/dev": "all devices",
    "/etc": "the machine's configuration",
    "/boot": "what the machine boots",
}
_SYSTEMD = "/run/systemd/system"
log = logging.getLogger("pycm.containers")


class Run(NamedTuple):
    """A task that was started: the container with its network, and when it began (RFC 3339)."""

    container: Container
    pid: int
    started_at: str


class Stop(NamedTuple):
    """How to end a task. *timeout*: seconds to wait after each signal. *force*: kill what *signal* does not end."""

    signal: int
    timeout: float
    force: bool


def stop_of(options: StopOptions | None, default_timeout: float) -> Stop:
    """Check *options*. InvalidInputError."""
    options = options or StopOptions()
    if options.timeout < 0:
        raise InvalidInputError(f"the timeout = {options.timeout} shouldn't be negative")  # compat
    if options.timeout > LONGEST_STOP:
        raise InvalidInputError(f"the timeout = {options.timeout} is longer than {LONGEST_STOP} seconds")
    return Stop(parse_signal(options.signal), options.timeout or default_timeout, options.force)


class Launcher:
    """Starts tasks of containers, and ends them."""

    def __init__(
        self,
        runtime: Runtime,
        logs: Logs,
        metrics: Metrics,
        network: Network,
        config: Config,
        devices: Devices | None = None,
    ) -> None:
        self._runtime = runtime
        self._logs = logs
        self._metrics = metrics
        self._network = network
        self._config = config
        self._runc = config.containers.runc_binary
        self._devices = devices or HostDevices()
        self._systemd = os.path.isdir(_SYSTEMD)
        self._starting = asyncio.Semaphore(PARALLEL)

    def admit(self, container: Container) -> None:
        """As check_policy; the log names what a new container may reach of the machine, and hooks that never run."""
        self.check_policy(container)
        for hook in container.hooks:
            if hook.type not in HOOK_KEYS:
                log.warning(
                    "container %s: hook %s is of an unknown type and never runs: prestart, poststart and poststop do",
                    container.id,
                    shorten(hook.path),
                )
        for mount in describe_mounts(container, *_own_paths(self._config)):
            log.warning("container %s mounts %s", container.id, mount)

    def check_policy(self, container: Container) -> None:
        """Refuse what would run unverified or undecryptable content."""
        verifier = self._config.containers.image_verifier_type
        if verifier not in ("", "none"):
            raise ConflictError(
                f"image verification ({verifier}) is configured and not supported yet: {container.image.name} is not"
                " used unverified; unset containers.image_verifier_type to go without"
            )
        decrypt = container.image.decrypt_config
        containers = self._config.containers
        configured = containers.image_dec_keys or containers.image_dec_recipients
        if configured or (decrypt and (decrypt.keys or decrypt.recipients)):
            raise ConflictError(
                f"image decryption is configured and not supported yet: {container.image.name} cannot be used"
            )

    async def request(self, container: Container, io: TaskIO) -> TaskRequest:
        image = await self._runtime.image(container.image.name, container.id)
        host = container.host_config or HostConfig()
        devices = await self._look_at_machine(container, host)
        config = container.config or ContainerConfiguration()
        user = await find_user(self._runtime, container.id, config.user or image.user)
        facts = HostFacts(
            cgroups_path=self._cgroups_path(container.id),
            devices=devices,
            capabilities=machine.capabilities(),
            seccomp_machine=await asyncio.to_thread(self._seccomp_machine, host),
            network_namespace=container.network_settings.sandbox_key if container.network_settings else "",
        )
        return TaskRequest(
            id=container.id,
            image=container.image.name,
            spec=await asyncio.to_thread(build_spec, container, image, user, facts),
            runtime=host.runtime,
            io=io,
            systemd_cgroup=self._systemd,
            runtime_binary=self._runc if host.runtime in RUNC_FAMILY else "",
        )

    async def _connect(self, container: Container) -> Container:
        """Return the container as it enters its next run: with its network files, and the configured runtime."""
        self._network.check(container)
        host = container.host_config or HostConfig()
        if host.runtime in RUNC_FAMILY:
            container = replace(
                container, host_config=replace(host, runtime=self._config.containers.runc_runtime)
            )
        return await self._network.connect(container)

    async def launch(self, container: Container) -> Run:
        """Start the container's task. A failure leaves nothing behind."""
        self.check_policy(container)
        container = await self._connect(container)
        started_at = units.now()

        def created(pid: int) -> None:
            nonlocal started_at
            started_at = units.now()  # before it runs: it may end before containerd has answered
            self._metrics.open(container.id, pid)

        try:
            io = await self._make_streams(container)
            request = await self.request(container, io)
            self._logs.attach(container.id, io, container.log_config)
            fail_point("containers.start-attached")
            async with self._starting:
                with explained(container):
                    pid = await self._runtime.start(request, created)
        except UnavailableError:
            raise  # the task may run: its output is still read, until containerd answers (`reconcile`)
        except BaseException:
            await self._release(container.id)
            raise
        return Run(container, pid, started_at)

    async def _make_streams(self, container: Container) -> TaskIO:
        io_config = container.io_config
        await self._logs.check(container.id, container.log_config)
        io = self._logs.make_fifos(
            container.id,
            terminal=bool(io_config and io_config.tty),
            stdin=bool(io_config and io_config.open_stdin),
        )
        fail_point("containers.start-fifos")
        return io

    async def _release(self, container_id: str) -> None:
        self._metrics.close(container_id)
        await self._logs.finish(container_id)
        await self._network.disconnect(container_id)

    async def destroy(self, container: Container) -> None:
        """Delete all that the container has in containerd and on the machine, but its record."""
        await self._runtime.remove(container.id)
        fail_point("containers.remove-runtime")
        await self._release(container.id)
        self._logs.forget(container.id, container.log_config)

    async def terminate(
        self, container_id: str, ended: asyncio.Future[Exit], stop: Stop, thaw: Callable[[], Awaitable[None]]
    ) -> Exit:
        """Signal the first process and wait for *ended*; with force, kill all processes and wait again.

        *thaw* is awaited after a signal: a frozen process gets it only when it runs again.
        """
        steps = [(stop.signal, False)] if stop.signal != SIGKILL else []
        if stop.force or not steps:
            steps.append((SIGKILL, True))
        for number, everyone in steps:
            try:
                await self._runtime.signal(container_id, number, everyone=everyone)
            except NotFoundError:
                pass  # it has just ended by itself: its exit is on the way
            else:
                await thaw()
            fail_point("containers.stop-signalled")
            done, _ = await asyncio.wait({ended}, timeout=stop.timeout)
            if done:
                return ended.result()
        name = "SIGKILL" if number == SIGKILL else signal_name(number)
        raise OperationFailedError(f"could not stop container with ID = {container_id} with {name}")  # compat

    async def _look_at_machine(self, container: Container, host: HostConfig) -> tuple[Device, ...]:
        containerd, home = self._config.containers.address_path, self._config.manager.home_dir

        def look() -> tuple[Device, ...]:
            see_as_server(containerd, home)  # the agent's unit may hide what the container gets
            _check_machine(container)
            return self._devices.find(host)

        try:
            return await apart(f"start of {container.id}", look)
        except asyncio.TimeoutError:
            raise OperationFailedError(
                f"a mount source, hook or device of the container does not answer within {LOOK:g} s:"
                " the file system that it is on hangs"
            ) from None

    def _seccomp_machine(self, host: HostConfig) -> str:
        """Where the default profile shall and can be used, the machine that it is for."""
        if self._config.containers.seccomp_profile != "default" or host.runtime not in RUNC_FAMILY:
            return ""
        return os.uname().machine if machine.seccomp(self._runc or "runc") else ""

    def _cgroups_path(self, container_id: str) -> str:
        namespace = self._config.containers.default_ns
        return f"system.slice:{namespace}:{container_id}" if self._systemd else f"/{namespace}/{container_id}"


@contextlib.contextmanager
def explained(container: Container) -> Iterator[None]:
    """The runtime counts towards the container's memory while it starts it; what it says when the kernel kills it names
    no limit.
    """
    try:
        yield
    except OperationFailedError as error:
        limit = container.resources.memory if container.resources else ""
        if type(error) is OperationFailedError and limit and 0 < size_to_bytes(limit) < RUNTIME_MEMORY:
            raise OperationFailedError(
                f"{error}: the memory limit {limit} may be too low for the runtime, which itself needs some memory"
            ) from None
        raise


async def find_user(runtime: Runtime, container_id: str, user: str) -> ProcessUser:
    """Look *user* up in the container's own passwd and group files. InvalidInputError."""
    passwd = await runtime.read_rootfs_file(container_id, PASSWD, MAX_USER_FILE)
    group = await runtime.read_rootfs_file(container_id, GROUP, MAX_USER_FILE)
    return resolve_user(user, passwd or b"", group or b"")


def _check_machine(container: Container) -> None:
    """Check what this machine must have. The runtime's own errors are long, and nothing that is missing is created."""
    check_cpus(container.resources, online_cpus())
    for hook in container.hooks:
        if not os.access(hook.path, os.X_OK):
            raise InvalidInputError(f"hook {shorten(hook.path)} is not a program of this machine")
    for mount in container.mount_points:
        if not os.path.isabs(mount.source):
            raise InvalidInputError(f"mount source {shorten(mount.source)} is not an absolute path")
        if not os.path.lexists(mount.source):
            raise InvalidInputError(f"mount source {shorten(mount.source)} does not exist on this machine")
        _check_user_files(mount)


def _check_user_files(mount: MountPoint) -> None:
    """The runtime would open a FIFO in their place and wait for ever."""
    target = os.path.normpath(mount.destination).rstrip("/")
    for name in (PASSWD, GROUP):
        if name == target or name.startswith(target + "/"):
            source = mount.source + name[len(target) :]
            if os.path.exists(source) and not os.path.isfile(source):
                raise InvalidInputError(
                    f"mount source {shorten(source)} would be the container's {name}, which must be a regular file"
                )


def describe_mounts(container: Container, sockets: Iterable[str], state: Iterable[str]) -> Iterator[str]:
    """A phrase for each such mount. *sockets*: who speaks there rules all containers; *state*: directories of the
    agent's own.
    """
    for mount in container.mount_points:
        source = "/" + os.path.normpath(mount.source).lstrip("/")
        if what := _HOST_PATHS.get(source):
            yield f"{source} ({what})"
            continue
        for path in sockets:
            if _within(path, source):
                yield f"{source} (with {path}, by which all containers can be commanded)"
        for path in state:
            if _within(path, source) or _within(source, path):
                yield f"{source} (state of the agent: {path})"


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _own_paths(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sockets that command all containers, and directories of the agent's state."""
    sockets = (config.containers.address_path, config.grpc_server.address_path)
    return sockets, (config.manager.home_dir, config.manager.exec_root_dir)
