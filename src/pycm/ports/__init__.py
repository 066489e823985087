# SPDX-License-Identifier: Apache-2.0
"""The Protocols between the rooms: what the core and the fronts need of the outside, and the fronts of the core.

An outside room (containerd, logs, metrics, mqtt) implements its Protocol; `agent.py` hands it to those who need it.
Values that cross are frozen. Every coroutine here may raise the errors of `pycm.errors` and no others.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pycm.model.states import Action as Action
from pycm.ports.core import Command as Command
from pycm.ports.core import Containers as Containers
from pycm.ports.core import Downloads as Downloads
from pycm.ports.core import Event as Event
from pycm.ports.core import Mqtt as Mqtt
from pycm.ports.core import MqttListener as MqttListener
from pycm.ports.core import Session as Session
from pycm.ports.core import Sessions as Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from pycm.model.container import Container, LogConfiguration

# ── the runtime: containerd ──────────────────────────────────────────────────────────────────────────────────────────


class ImageConfig(NamedTuple):
    """What an image's configuration says about the process to run (OCI image specification, "config")."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""


class TaskIO(NamedTuple):
    """Paths of the FIFOs that containerd's shim writes to and reads from; "" where there is none. With a terminal, no
    stderr.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class TaskStatus(enum.Enum):
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    UNKNOWN = "unknown"


class Exit(NamedTuple):
    """End of a container's first process: exit code 0 to 255 and the time as RFC 3339 UTC."""

    code: int
    at: str


class Task(NamedTuple):
    """A container's task as containerd reports it; `exit` is set when it is STOPPED."""

    id: str
    pid: int
    status: TaskStatus
    io: TaskIO
    exit: Exit | None = None


class TaskExited(NamedTuple):
    id: str
    pid: int
    exit: Exit


class TaskOOM(NamedTuple):
    id: str


class RuntimeConnected(NamedTuple):
    """Sent after each subscription, when events arrive again: all tasks, so that nothing is missed, and containerd's
    version.
    """

    tasks: tuple[Task, ...]
    version: str = ""


class RuntimeLost(NamedTuple):
    """containerd does not answer; the runtime reconnects with back-off. Sent once for each reason."""

    reason: str


RuntimeEvent = TaskExited | TaskOOM | RuntimeConnected | RuntimeLost


class TaskRequest(NamedTuple):
    """Everything to start a container's task. `spec`: the OCI runtime spec as a JSON-able dict.

    runtime_binary: the OCI runtime that a runc shim calls, by name or path; "" for runc.
    """

    id: str
    image: str
    spec: Mapping[str, Any]
    runtime: str
    io: TaskIO
    systemd_cgroup: bool = False
    runtime_binary: str = ""


class ExecRequest(NamedTuple):
    """A command to run beside a container's first process: as its user, in its environment, with its rights and limits.

    id: the container's. io: FIFOs for the command's streams, none by default (without a terminal stdout and stderr go
    together). "" in *cwd*: where the first process began. exec_id: by which the command is signalled and resized; ""
    for one of no interest. user: uid, gid and further groups, if not those of the first process.
    """

    id: str
    args: tuple[str, ...]
    io: TaskIO = TaskIO()
    env: tuple[str, ...] = ()
    cwd: str = ""
    exec_id: str = ""
    user: tuple[int, int, tuple[int, ...]] | None = None


class ExecListener(Protocol):
    """Who looks after the streams of a command."""

    def started(self) -> None: ...

    async def exited(self) -> None:
        """The command has ended. Its streams are closed when this returns: what is in them has to be read before."""


class Runtime(Protocol):
    """Containers, snapshots and tasks of one containerd namespace. Ids are container ids; a container's snapshot is
    "<id>-snapshot".
    """

    async def image(self, reference: str, container_id: str = "") -> ImageConfig:
        """Configuration of a local image, this machine's platform. NotFoundError if the namespace has no such image.

        With *container_id*: of the image that this container was made from, though the name may mean another one by
        now.
        """

    async def prepare(self, container_id: str, image: LocalImage) -> None:
        """Make the container's snapshot from the image, which is unpacked first if it was imported without."""

    async def has_snapshot(self, container_id: str) -> bool: ...

    async def read_rootfs_file(self, container_id: str, path: str, limit: int) -> bytes | None:
        """At most *limit* bytes of a regular file in the container's root file system, links not followed; None if
        absent.
        """

    async def start(self, request: TaskRequest, created: Callable[[int], None] | None = None) -> int:
        """Make container record and task and start it; return the pid. Nothing is left behind on failure.

        *created* is called with the pid once process and cgroup exist, before the first instruction of the program:
        what is opened then is open even if the program ends at once.

        A record with this id whose task is gone is replaced; a live task is a ConflictError.
        """

    async def signal(
        self, container_id: str, number: int, *, everyone: bool = False, exec_id: str = ""
    ) -> None:
        """Signal the first process, with *everyone* all processes, or a command. NotFoundError if there is no live
        process.
        """

    async def pause(self, container_id: str) -> None: ...

    async def resume(self, container_id: str) -> None: ...

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Apply an OCI "linux.resources" dict to the live task."""

    async def exec(
        self, request: ExecRequest, timeout: float | None = None, listener: ExecListener | None = None
    ) -> int:
        """Run a command in a running container to its end; the exit code.

        OperationFailedError if it cannot be started, or has not ended after *timeout* seconds: it is killed then, as it
        is if the caller is cancelled. UnavailableError if containerd went away meanwhile: the command is ended when it
        is back.
        """

    async def close_stdin(self, container_id: str, exec_id: str = "") -> None:
        """containerd's shim holds the stdin FIFO open no longer: at its end the process reads end of file."""

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        """Set the size of the process's terminal, in characters."""

    async def delete_task(self, container_id: str) -> None:
        """Delete the ended task and the container record, keep the snapshot. Missing ones are ignored."""

    async def remove(self, container_id: str) -> None:
        """Kill the container and delete all it has in containerd, the snapshot too. Missing parts are ignored."""

    async def tasks(self) -> tuple[Task, ...]: ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Connect, and yield events in order, for ever; one consumer. RuntimeConnected or RuntimeLost comes first."""

    async def close(self) -> None: ...


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class PullStep(enum.Enum):
    """What a pull is doing; in this order, though a step that has nothing to do is left out."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    DONE = "done"


class PullProgress(NamedTuple):
    """Progress of a pull. DOWNLOADING counts bytes, including those of local layers; UNPACKING counts layers."""

    reference: str
    step: PullStep
    done: int = 0
    total: int = 0


class ImageInfo(NamedTuple):
    """An image in containerd. `size`: bytes of its content for this machine, compressed, as far as it is here.
    `created`: when this machine got it (RFC 3339, UTC). `containers`: ids of the containers that use it; it is not
    removed while there are any.
    """

    reference: str
    digest: str
    size: int
    created: str
    containers: tuple[str, ...] = ()


class LocalImage(NamedTuple):
    """An image in containerd, found once for a creation. Only outside rooms read `top` and `config_digest`."""

    reference: str
    top: str = ""
    config_digest: str = ""


class Images(Protocol):
    """Images of the containerd namespace: pulled by worker processes, removed when they are old or room is needed.

    A reference is fully qualified, "host[:port]/path:tag" or "…@sha256:…"; local images are found under exactly that
    text.
    """

    def hold(self, reference: str) -> AbstractAsyncContextManager[LocalImage]:
        """Find the image, pulling it if it is missing or damaged, and prevent its removal until the end of the block.

        A local image needs no network. NotFoundError, InvalidInputError, OperationFailedError (refused, damaged, not
        for this machine, no space) or UnavailableError (registry, containerd) say why there is no image.
        """

    async def pull(self, reference: str, progress: Callable[[PullProgress], None] | None = None) -> ImageInfo:
        """Ask the registry even if the image is here, so that a tag that has moved is followed; fetch what is missing.

        *progress* is called on the loop, some times a second, and must not block. Calls for the same reference share
        one pull, which ends when the last of them is cancelled. What was fetched is kept for a day, so that the next
        attempt resumes there.
        """

    async def remove(self, reference: str) -> None:
        """NotFoundError; ConflictError if a container uses it or is being made from it."""

    async def prune(self) -> list[str]:
        """Remove every image that no container uses; their references, those that could not be removed left out
        (logged).
        """

    async def list(self) -> list[ImageInfo]:
        """All images, by reference."""


# ── container output ────────────────────────────────────────────────────────────────────────────────────────────────


class Attachment(Protocol):
    """One client that is attached to a container. Close it."""

    async def read(self) -> bytes:
        """Output as soon as some has come, stdout and stderr mixed; b"" at its end. OperationFailedError if the client
        is too slow.
        """

    async def write(self, data: bytes) -> None:
        """Hand *data* to stdin, waiting while the container does not read; dropped if it has no stdin or has ended."""

    def close(self) -> None: ...


class Pipes(Protocol):
    """The FIFOs of one command, at the agent's end. Close them."""

    io: TaskIO

    async def read(self, stream: int) -> bytes:
        """Output of stream 0 (stdout) or 1 (stderr) as soon as some has come; b"" at its end."""

    async def write(self, data: bytes) -> None:
        """Hand *data* to the command, waiting while it does not read."""

    def started(self) -> None:
        """The command has its ends: an output that nobody writes to any more is at its end from now on."""

    def end_input(self) -> None: ...

    @property
    def idle(self) -> bool:
        """All that was written has been read, and more is waited for."""

    @property
    def ended(self) -> bool:
        """All outputs are at their ends."""

    def close(self) -> None: ...


class Logs(Protocol):
    """Container output: FIFOs of 1 MiB pumped into json.log by a thread of its own, and the log read back."""

    async def check(self, container_id: str, config: LogConfiguration | None) -> None:
        """OperationFailedError if the log cannot be written where its root_dir says. A full disk is none: it may have
        room again.
        """

    def make_fifos(self, container_id: str, *, terminal: bool, stdin: bool) -> TaskIO:
        """Make fresh FIFOs for a start; left-overs of this container's earlier ones are removed."""

    def attach(self, container_id: str, io: TaskIO, config: LogConfiguration | None) -> None:
        """Begin (or, after a restart of the agent, go on) pumping. Safe after any kind of end of the earlier pump."""

    async def connect(self, container_id: str, *, next_run: bool) -> Attachment:
        """Attach a client to the run there is, or with *next_run* to the one that begins next. Of what is written after
        the return nothing is missed. ConflictError beyond the bound.
        """

    def pipes(self, container_id: str, exec_id: str, *, terminal: bool, stdin: bool) -> Pipes:
        """FIFOs for a command in the container. OperationFailedError."""

    def close_stdin(self, container_id: str) -> None:
        """Hold the stdin FIFO of the run there is open no longer, neither here nor at clients."""

    async def finish(self, container_id: str) -> None:
        """The task has been deleted: pump what is left (bounded in time), close, remove the FIFOs."""

    def forget(self, container_id: str, config: LogConfiguration | None = None) -> None:
        """The container was removed: delete what is kept outside its own directory; with *config*, its logs in a
        root_dir too.
        """

    def path(self, container_id: str, config: LogConfiguration | None) -> str:
        """The live log file of the container."""

    def read(self, container_id: str, config: LogConfiguration | None, tail: int) -> AsyncIterator[str]:
        """The log as the gRPC API streams it: tail >= 0 one record a message, < 0 the whole file in bounded chunks."""

    async def close(self) -> None:
        """Stop pumping; output waits in the FIFOs for the next agent."""


# ── network ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Network(Protocol):
    """What a container needs of the network before it starts, and what it leaves behind."""

    def check(self, container: Container) -> None:
        """Raise ConflictError if this machine cannot provide the network, InvalidInputError if none could."""

    async def connect(self, container: Container) -> Container:
        """Make hosts, hostname and resolv.conf files and the network; returns the container with paths and network
        settings.

        What an earlier run of the container left is released first. Nothing is left behind on failure.
        """

    def found(self, container: Container) -> Container:
        """*container*, which runs though its record does not say so, with the network settings that connect gave it."""

    async def disconnect(self, container_id: str) -> None:
        """Release what connect made, after the end of the task. Missing parts are ignored."""

    async def clear(self, kept: Collection[str]) -> None:
        """Release what earlier agents made for any container but these; those that run learn which peers there are."""


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Measurement(NamedTuple):
    """A named tuple, since nine of these a container and sweep are made: half the time of a frozen dataclass."""

    id: str
    value: float


class ContainerMeasurements(NamedTuple):
    container_id: str
    measurements: tuple[Measurement, ...]


class HostMeasurements(NamedTuple):
    """Of the machine, whose originator is SYSTEM, or of the process of that name."""

    originator: str
    measurements: tuple[Measurement, ...]


class Meter(Protocol):
    """One consumer's view of the figures, with CPU shares since its own last sample."""

    def sample(self, container_ids: Iterable[str]) -> Sequence[ContainerMeasurements]:
        """Return all standard figures of open containers; the first sample of a container has no CPU share."""


class Metrics(Protocol):
    """Figures of running containers from their cgroups and /proc."""

    def open(self, container_id: str, pid: int) -> None:
        """The container runs: open its files once. A container that cannot be measured is logged and skipped, never an
        error.
        """

    def close(self, container_id: str) -> int:
        """Close the files of an ended container. Return the OOM kills in its cgroup, 0 if unknown."""

    def limits_changed(self, container_id: str) -> None: ...

    def baseline(self, container_ids: Iterable[str]) -> None:
        """Remember CPU times, so that the next sample of these has a utilization."""

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        """One sweep. *wanted*: container id to a predicate on measurement ids (None: all standard ones), in the order
        of output.
        """

    def meter(self) -> Meter:
        """For a consumer beside the one of `baseline` and `sample`."""

    def host_baseline(self, reader: str) -> None:
        """Remember the machine's CPU times, so that the next `host` of the same reader has a utilization."""

    def host(self, wanted: Mapping[str, frozenset[str]], reader: str) -> Sequence[HostMeasurements]:
        """Figures of the machine and of processes. *wanted*: originator to measurement ids, in the order of output."""
