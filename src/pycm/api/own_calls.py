# SPDX-License-Identifier: Apache-2.0
"""The calls of `pycm.v1.Agent` for the command line. Their failures are those of pycm.errors, by the status of the call."""

from __future__ import annotations

import contextlib

from pycm.api.call import CallError
from pycm.api.methods import AGENT
from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from pycm.api.client import Client
    from pycm.api.duplex import Duplex

_UNIMPLEMENTED, _DEADLINE_EXCEEDED = 12, 4
_KINDS: dict[int, type[PycmError]] = {
    3: InvalidInputError,
    5: NotFoundError,
    9: ConflictError,
    14: UnavailableError,
}


class TimeExpiredError(OperationFailedError):
    """What was waited for did not come in time."""

    #: Of the command line.
    EXIT_CODE = 6


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """CallError becomes the error of its kind, with the agent's text alone."""
    try:
        yield
    except CallError as error:
        if error.code == _UNIMPLEMENTED:
            raise OperationFailedError(
                "the agent does not know this call: it is no pycm, or older than this command line"
            ) from None
        if error.code == _DEADLINE_EXCEEDED:
            raise TimeExpiredError(error.text) from None
        raise _KINDS.get(error.code, OperationFailedError)(error.text) from None


class OwnCalls:
    def __init__(
        self, client: Client, open_duplex: Callable[[str, str], Duplex], say: Callable[[str], None]
    ) -> None:
        self._client = client
        self._open_duplex = open_duplex
        self._say = say

    def resize(self, container_id: str, columns: int, rows: int) -> None:
        size = m.TerminalSize(columns=columns, rows=rows)
        self._unary("Resize", m.ResizeRequest(container_id=container_id, size=size))

    def exec(self, start: m.ExecStart) -> Duplex:
        """Its messages are ExecRequest and ExecResponse; its errors come as CallError (see `failures`)."""
        duplex = self._open_duplex(AGENT, "Exec")
        duplex.write(m.ExecRequest(start=start).SerializeToString())
        return duplex

    def events(self, container_ids: Iterable[str], actions: Iterable[str]) -> Iterator[m.Event]:
        request = m.EventsRequest(container_ids=container_ids, actions=actions)
        return map(m.Event.FromString, self._stream("Events", request, patient=True))

    def stats(
        self, container_ids: Iterable[str], *, interval_ms: int, samples: int
    ) -> Iterator[m.StatsResponse]:
        request = m.StatsRequest(container_ids=container_ids, interval_ms=interval_ms, samples=samples)
        return map(m.StatsResponse.FromString, self._stream("Stats", request, patient=True))

    def wait(self, container_id: str, condition: int, *, seconds: float | None) -> m.WaitResponse:
        """TimeExpiredError if the condition is not met within *seconds*."""
        request = m.WaitRequest(container_id=container_id, condition=condition)  # type: ignore[arg-type]
        try:
            return m.WaitResponse.FromString(self._unary("Wait", request, seconds, patient=True))
        except TimeExpiredError:
            raise TimeExpiredError(f"container {container_id} did not get there in time") from None

    def images(self) -> list[m.Image]:
        answer = self._unary("ListImages", m.ListImagesRequest())
        return list(m.ListImagesResponse.FromString(answer).images)

    def pull_image(self, reference: str) -> Iterator[m.PullImageResponse]:
        """News of how far it is; the last one holds the image."""
        request = m.PullImageRequest(reference=reference)
        return map(m.PullImageResponse.FromString, self._stream("PullImage", request))

    def remove_image(self, reference: str) -> None:
        self._unary("RemoveImage", m.RemoveImageRequest(reference=reference))

    def prune_images(self) -> list[str]:
        """The references of those that were removed."""
        answer = self._unary("PruneImages", m.PruneImagesRequest())
        return list(m.PruneImagesResponse.FromString(answer).references)

    def _unary(
        self, method: str, request: Any, deadline: float | None = None, *, patient: bool = False
    ) -> bytes:
        self._say(method)
        with failures():
            return self._client.unary(
                AGENT + method, request.SerializeToString(), deadline=deadline, patient=patient
            )

    def _stream(self, method: str, request: Any, *, patient: bool = False) -> Iterator[bytes]:
        self._say(method)
        with failures():
            yield from self._client.stream(AGENT + method, request.SerializeToString(), patient=patient)
