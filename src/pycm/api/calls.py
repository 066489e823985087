# SPDX-License-Identifier: Apache-2.0
"""The agent's calls by name, for the command line: messages of the API in and out, over the blocking client."""

from __future__ import annotations

from pycm.api.client import Client
from pycm.api.methods import CONTAINERS, PROJECT_INFO
from pycm.api.proto.api.services.containers import containers_pb2 as m

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pycm.api.duplex import Duplex
    from pycm.api.own_calls import OwnCalls
    from pycm.api.proto.api.types.containers import types_pb2 as types
    from pycm.api.proto.api.types.sysinfo.types_pb2 import ProjectInfo
    from pycm.model.container import Container, UpdateOptions
    from pycm.model.records import Record


#: Seconds for calls that the agent answers from memory. Others may wait for a container, a registry or another call.
DEADLINE = 60.0
_FROM_MEMORY = ("Get", "List")


class Agent:
    """A running agent. Errors of every call: UnavailableError, CallError.

    *trace* hears each call before it is made, *waiting* the method of a call that takes long and the seconds so far.
    """

    def __init__(
        self,
        host: str,
        *,
        timeout: float = 30.0,
        trace: Callable[[str], None] | None = None,
        waiting: Callable[[str, float], None] | None = None,
    ) -> None:
        self._client = Client(host, timeout=timeout, waiting=waiting)
        self._talking: Client | None = None
        self._own: OwnCalls | None = None
        self._trace = trace

    def list(self) -> list[types.Container]:
        answer = self._call("List", m.ListContainersRequest())
        return list(m.ListContainersResponse.FromString(answer).containers)

    def get(self, container_id: str) -> types.Container | None:
        answer = m.GetContainerResponse.FromString(self._call("Get", m.GetContainerRequest(id=container_id)))
        return answer.container if answer.HasField("container") else None

    def create(self, container: Container) -> types.Container:
        request = m.CreateContainerRequest()
        _fill(container, request.container)
        return m.CreateContainerResponse.FromString(self._call("Create", request)).container

    def start(self, container_id: str) -> None:
        self._call("Start", m.StartContainerRequest(id=container_id))

    def restart(self, container_id: str) -> None:
        self._call("Restart", m.RestartContainerRequest(id=container_id))

    def pause(self, container_id: str) -> None:
        self._call("Pause", m.PauseContainerRequest(id=container_id))

    def unpause(self, container_id: str) -> None:
        self._call("Unpause", m.UnpauseContainerRequest(id=container_id))

    def stop(self, container_id: str, *, timeout: int, force: bool, signal: str) -> None:
        """*timeout* in seconds, 0 for the agent's default."""
        request = m.StopContainerRequest(id=container_id)
        request.stopOptions.timeout = timeout
        request.stopOptions.force = force
        request.stopOptions.signal = signal
        self._call("Stop", request)

    def rename(self, container_id: str, name: str) -> None:
        self._call("Rename", m.RenameContainerRequest(id=container_id, name=name))

    def update(self, container_id: str, options: UpdateOptions) -> None:
        request = m.UpdateContainerRequest(id=container_id)
        _fill(options, request.updateOptions)
        self._call("Update", request)

    def remove(self, container_id: str, *, force: bool, timeout: int = 0) -> None:
        request = m.RemoveContainerRequest(id=container_id, force=force)
        if force:
            request.stopOptions.force = True
            request.stopOptions.timeout = timeout
        self._call("Remove", request)

    def logs(self, container_id: str, tail: int) -> Iterator[str]:
        request = m.GetLogsRequest(id=container_id, tail=tail).SerializeToString()
        self._say("Logs")
        for message in self._client.stream(CONTAINERS + "Logs", request):
            yield m.GetLogsResponse.FromString(message).log

    def project_info(self) -> ProjectInfo:
        from pycm.api.proto.api.services.sysinfo import system_info_pb2

        self._say("ProjectInfo")
        answer = self._client.unary(PROJECT_INFO, b"", deadline=DEADLINE)
        return system_info_pb2.ProjectInfoResponse.FromString(answer).project_info

    def attach(self, container_id: str, *, stdin: bool) -> Duplex:
        """Output of the container's run, or of its next one, from now on. When this returns, nothing of it is missed any more."""
        request = m.AttachContainerRequest(id=container_id, std_in=stdin)
        duplex = self._duplex(CONTAINERS, "Attach")
        duplex.write(request.SerializeToString())
        duplex.begin()
        return duplex

    @property
    def own(self) -> OwnCalls:
        """The calls that Kanto's API lacks."""
        if self._own is None:
            from pycm.api.own_calls import OwnCalls

            self._own = OwnCalls(self._client, self._duplex, self._say)
        return self._own

    def _duplex(self, service: str, method: str) -> Duplex:
        """On a connection of its own, so that other calls can be made beside it."""
        self._say(method)
        self._talking = self._client.another()
        return self._talking.duplex(service + method)

    def _say(self, method: str) -> None:
        if self._trace is not None:
            self._trace(f"call {method}")

    def _call(self, method: str, request: Any) -> bytes:
        self._say(method)
        deadline = DEADLINE if method in _FROM_MEMORY else None
        return self._client.unary(CONTAINERS + method, request.SerializeToString(), deadline=deadline)

    def close(self) -> None:
        self._client.close()
        if self._talking is not None:
            self._talking.close()


def _fill(record: Record, message: Any) -> None:
    from pycm.model.records import to_message

    message.SetInParent()
    to_message(record, message)
