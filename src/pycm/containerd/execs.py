# SPDX-License-Identifier: Apache-2.0
"""Commands that run in a container beside its first process.

containerd keeps such a command until somebody deletes it. So each one is noted by an empty file while it exists; an agent that was
killed, or lost containerd meanwhile, finds the note and ends the command. What a command starts inside the container in
a session of its own is the container's and goes with it; all else is killed with the command.
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

#: Commands in one container at once; more are refused.
MOST = 16
#: Between the ids in a note's name; neither has it.
_SEPARATOR = "@"
_log = logging.getLogger("pycm.containerd")


class Execs:
    """*directory*: of the notes; "" keeps none, for tests."""

    def __init__(self, client: Client, lease: str, directory: str) -> None:
        self._client = client
        self._lease = lease
        self._directory = directory
        #: Container id to the ids of its commands.
        self._running: dict[str, set[str]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def run(
        self, request: ExecRequest, timeout: float | None, listener: ExecListener | None = None
    ) -> int:
        """As ports.Runtime.exec."""
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
            raise ConflictError(f"container {container_id} runs {MOST} commands already")
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
        """The runtime spec that the container was started with."""
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
        """The runtime reads them inside the container, however the command's user is given, and would wait at a FIFO for ever."""
        found = await self._call(rpc.TASK_GET, tasks_pb2.GetRequest(container_id=container_id))
        pid = rpc.task(found.process).pid
        try:
            await apart(f"exec in {container_id}", lambda: _refuse_special(pid))
        except asyncio.TimeoutError:
            raise OperationFailedError(
                f"{PASSWD} or {GROUP} in the container does not answer within {LOOK:g} s: its file system hangs"
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
                spec=rpc.spec_any("Process", process),
            ),
        )
        fail_point("containerd.exec-made")
        try:
            await self._call(rpc.TASK_START, tasks_pb2.StartRequest(container_id=request.id, exec_id=exec_id))
        except NotFoundError as error:  # so says runc of a program that is not there
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
        """Also for a caller that is cancelled, and once more if it is cancelled while it waits for this."""
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
                "container %s: a command in it is ended when containerd is back: %s", container_id, error
            )
            return
        except PycmError as error:  # it goes with the container
            _log.warning("container %s: a command in it was not cleaned up: %s", container_id, error)
        self._forget(container_id, exec_id)

    async def _kill(self, container_id: str, exec_id: str) -> None:
        """SIGKILL to it and what it has started, and wait until it is gone. One that was never started has nothing to kill."""
        request = tasks_pb2.KillRequest(container_id=container_id, exec_id=exec_id, signal=signal.SIGKILL)
        with contextlib.suppress(NotFoundError, ConflictError, OperationFailedError):
            await self._kill_group(container_id, exec_id)
            await self._call(rpc.TASK_KILL, request)
            await self._call(rpc.TASK_WAIT, tasks_pb2.WaitRequest(container_id=container_id, exec_id=exec_id))

    async def _kill_group(self, container_id: str, exec_id: str) -> None:
        """The runtime makes a command the leader of a process group. containerd kills the leader alone, and its children, as those
        of a health check's shell, would add up in the container.
        """
        request = tasks_pb2.GetRequest(container_id=container_id, exec_id=exec_id)
        found = rpc.task((await self._call(rpc.TASK_GET, request)).process)
        if found.status is TaskStatus.RUNNING and found.pid > 1:
            with contextlib.suppress(OSError):  # it has ended just now
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
                f"cannot note a command in {shorten(self._directory)}: {error.strerror}"
            ) from None

    def _forget(self, container_id: str, exec_id: str) -> None:
        if self._directory:
            with contextlib.suppress(OSError):
                os.unlink(self._path(container_id, exec_id))

    async def end_left_over(self) -> None:
        """End the commands that are noted and that nobody waits for."""
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
            _log.warning("commands that an earlier agent left in containers are not ended: %s", error)
            return []


def _refuse_special(pid: int) -> None:
    """SpecialFileError for what the first process sees, mounts included. What cannot be looked at is left to the runtime."""
    for path in (PASSWD, GROUP):
        try:
            rootfs.read_file([f"/proc/{pid}/root/."], path, 0)
        except rootfs.SpecialFileError:
            raise
        except OperationFailedError as error:
            _log.debug("process %d: %s", pid, error)


def _process(spec: dict[str, Any], request: ExecRequest) -> dict[str, Any]:
    """The first process of *spec* with the command of *request*."""
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
