# SPDX-License-Identifier: Apache-2.0
"""Commands that run in a container beside its first process.

containerd keeps such a command until a client deletes it. An empty file therefore notes each command while it exists.
An agent that was killed, or that lost containerd meanwhile, finds the note and ends the command. The command's children
are killed with it, but for those with a session of their own: they belong to the container.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
from typing import TYPE_CHECKING, Any

from pycm.containerd import rootfs, rpc
from pycm.containerd.proto import containers_pb2, tasks_pb2
from pycm.errors import (
    ConflictError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.failpoints import fail_point
from pycm.oci.user import GROUP, PASSWD
from pycm.ports import TaskStatus
from pycm.storage.files import open_regular
from pycm.waiting import LOOK, apart, within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.containerd.client import Client
    from pycm.containerd.rpc import Call, Reply, Request
    from pycm.ports import ExecListener, ExecRequest

#: Commands in one container at a time; further ones are refused.
MOST = 16
#: Separates the ids in a note's name; neither contains it.
_SEPARATOR = "@"
_log = logging.getLogger("pycm.containerd")


class Execs:
    """*directory*: where the notes are; "" for none."""

    def __init__(self, client: Client, lease: str, directory: str) -> None:
        self._client = client
        self._lease = lease
        self._directory = directory
        #: Ids of running commands by container id.
        self._running: dict[str, set[str]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def run(
        self, request: ExecRequest, timeout: float | None, listener: ExecListener | None = None
    ) -> int:
        """Implement ports.Runtime.exec."""
        exec_id = request.exec_id or f"pycm-{secrets.token_hex(8)}"
        with self._counted(request.id, exec_id):
            process = _process(await self._spec(request.id), request)
            await self._check_user_files(request.id)
            self._note(request.id, exec_id)
            ended = False
            try:
                await self._start(request, exec_id, process)
                fail_point("containerd.exec-started")
                if listener is not None:
                    listener.started()
                code = await self._wait(request.id, exec_id, timeout)
                ended = True
                if listener is not None:
                    await listener.exited()
            finally:
                await self._end_surely(request.id, exec_id, kill=not ended)
        return code

    @contextlib.contextmanager
    def _counted(self, container_id: str, exec_id: str) -> Iterator[None]:
        running = self._running.setdefault(container_id, set())
        if len(running) >= MOST:
            raise ConflictError(f"container {container_id} already runs {MOST} commands, the maximum")
        running.add(exec_id)
        try:
            yield
        finally:
            running.discard(exec_id)
            if not running:
                self._running.pop(container_id, None)

    # ── steps ──

    async def _call(self, call: Call[Request, Reply], request: Request) -> Reply:
        return await self._client.call(call, request, lease=self._lease)

    async def _spec(self, container_id: str) -> dict[str, Any]:
        """Return the runtime spec with which the container was started."""
        found = await self._call(rpc.CONTAINER_GET, containers_pb2.GetContainerRequest(id=container_id))
        try:
            spec = json.loads(found.container.spec.value)
        except (ValueError, RecursionError):
            spec = None
        if not isinstance(spec, dict) or not isinstance(spec.get("process", {}), dict):
            raise OperationFailedError(
                f"containerd's record of container {container_id} has no valid runtime spec"
            )
        return spec

    async def _check_user_files(self, container_id: str) -> None:
        """Refuse special files: the runtime always reads these files inside the container, and would block at a FIFO
        for ever.
        """
        found = await self._call(rpc.TASK_GET, tasks_pb2.GetRequest(container_id=container_id))
        pid = rpc.read_task(found.process).pid
        try:
            await apart(f"exec in {container_id}", lambda: _refuse_special(pid))
        except asyncio.TimeoutError:
            raise OperationFailedError(
                f"{PASSWD} or {GROUP} in the container cannot be read within {LOOK:g} s: its file system hangs"
            ) from None

    async def _start(self, request: ExecRequest, exec_id: str, process: dict[str, Any]) -> None:
        io = request.io
        await self._call(
            rpc.TASK_EXEC,
            tasks_pb2.ExecProcessRequest(
                container_id=request.id,
                exec_id=exec_id,
                stdin=io.stdin,
                stdout=io.stdout,
                stderr=io.stderr,
                terminal=io.terminal,
                spec=rpc.pack_spec("Process", process),
            ),
        )
        fail_point("containerd.exec-made")
        try:
            await self._call(rpc.TASK_START, tasks_pb2.StartRequest(container_id=request.id, exec_id=exec_id))
        except NotFoundError as error:  # runc's answer for a missing program
            raise OperationFailedError(str(error)) from None

    async def _wait(self, container_id: str, exec_id: str, timeout: float | None) -> int:
        request = tasks_pb2.WaitRequest(container_id=container_id, exec_id=exec_id)
        try:
            reply = await within(timeout, self._call(rpc.TASK_EXEC_WAIT, request))
        except asyncio.TimeoutError:
            raise OperationFailedError(
                f"the command did not end within {timeout:g} s and was killed"
            ) from None
        return reply.exit_status & 0xFF

    async def _end_surely(self, container_id: str, exec_id: str, *, kill: bool) -> None:
        """End the command even if the caller is cancelled, also while it waits here."""
        task = asyncio.ensure_future(self._end(container_id, exec_id, kill=kill))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)

    async def _end(self, container_id: str, exec_id: str, *, kill: bool) -> None:
        try:
            if kill:
                await self._kill(container_id, exec_id)
            with contextlib.suppress(NotFoundError):
                await self._call(
                    rpc.TASK_EXEC_DELETE,
                    tasks_pb2.DeleteProcessRequest(container_id=container_id, exec_id=exec_id),
                )
        except UnavailableError as error:
            _log.info(
                "container %s: command cannot be ended: %s (retrying when containerd is back)",
                container_id,
                error,
            )
            return
        except PycmError as error:
            _log.warning(
                "container %s: command cannot be ended: %s (it ends with the container)", container_id, error
            )
        self._forget(container_id, exec_id)

    async def _kill(self, container_id: str, exec_id: str) -> None:
        """Send SIGKILL to the command and its children, and wait until it is gone.

        A command that never started has no process.
        """
        request = tasks_pb2.KillRequest(container_id=container_id, exec_id=exec_id, signal=signal.SIGKILL)
        with contextlib.suppress(NotFoundError, ConflictError, OperationFailedError):
            await self._kill_group(container_id, exec_id)
            await self._call(rpc.TASK_KILL, request)
            await self._call(rpc.TASK_WAIT, tasks_pb2.WaitRequest(container_id=container_id, exec_id=exec_id))

    async def _kill_group(self, container_id: str, exec_id: str) -> None:
        """Kill the process group that the runtime makes for a command. containerd kills only its leader; the children
        of a health check's shell, for instance, would accumulate in the container.
        """
        request = tasks_pb2.GetRequest(container_id=container_id, exec_id=exec_id)
        found = rpc.read_task((await self._call(rpc.TASK_GET, request)).process)
        if found.status is TaskStatus.RUNNING and found.pid > 1:
            with contextlib.suppress(OSError):  # it just ended
                if os.getpgid(found.pid) == found.pid:
                    os.killpg(found.pid, signal.SIGKILL)

    # ── notes ──

    def _path(self, container_id: str, exec_id: str) -> str:
        return os.path.join(self._directory, container_id + _SEPARATOR + exec_id)

    def _note(self, container_id: str, exec_id: str) -> None:
        if not self._directory:
            return
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            os.close(open_regular(self._path(container_id, exec_id), os.O_CREAT))
        except OSError as error:
            raise OperationFailedError(
                f"cannot write a note of the command to {shorten(self._directory)}: {error.strerror}"
            ) from None

    def _forget(self, container_id: str, exec_id: str) -> None:
        if self._directory:
            with contextlib.suppress(OSError):
                os.unlink(self._path(container_id, exec_id))

    async def end_left_over(self) -> None:
        """End the noted commands that no caller waits for."""
        for name in self._noted():
            container_id, _, exec_id = name.partition(_SEPARATOR)
            if exec_id not in self._running.get(container_id, ()):
                await self._end(container_id, exec_id, kill=True)

    def _noted(self) -> list[str]:
        try:
            return os.listdir(self._directory) if self._directory else []
        except FileNotFoundError:
            return []
        except OSError as error:
            _log.warning(
                "notes of commands: cannot be read: %s (commands of an earlier agent keep running)", error
            )
            return []


def _refuse_special(pid: int) -> None:
    """Raise SpecialFileError for a file that the first process sees, mounts included.

    The runtime judges unreadable ones.
    """
    for path in (PASSWD, GROUP):
        try:
            rootfs.read_file([f"/proc/{pid}/root/."], path, 0)
        except rootfs.SpecialFileError:
            raise
        except OperationFailedError as error:
            _log.debug("process %d: %s", pid, error)


def _process(spec: dict[str, Any], request: ExecRequest) -> dict[str, Any]:
    """Return the first process of *spec* with the command of *request*."""
    process: dict[str, Any] = spec.get("process") or {}
    names = [entry.partition("=")[0] for entry in request.env]
    if request.user is not None:
        uid, gid, additional = request.user
        process = {**process, "user": {"uid": uid, "gid": gid, "additionalGids": list(additional)}}
    kept = [entry for entry in process.get("env") or [] if entry.partition("=")[0] not in names]
    return {
        **process,
        "args": list(request.args),
        "terminal": request.io.terminal,
        "env": [*kept, *request.env],
        "cwd": request.cwd or process.get("cwd") or "/",
    }
