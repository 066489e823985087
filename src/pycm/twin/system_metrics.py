# SPDX-License-Identifier: Apache-2.0
"""System metrics as Kanto's system-metrics component publishes them: a feature `Metrics` of the device's own thing.

It has topics of its own, without tenant and device, and answers only on request; its errors have no text. No I/O, as in
the core.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError, shorten
from pycm.model import durations
from pycm.model.measurements import CPU_UTILIZATION, MEMORY_UTILIZATION, SYSTEM
from pycm.twin import envelope as ditto
from pycm.twin.envelope import Kind, Problem
from pycm.twin.features.metrics import DATA, ID, Filter, Metrics, Request, data_value, decode_request
from pycm.twin.outbox import MACHINE, Decision, HostBaseline, Measure, Publish, Subscribe, ignored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycm.ports import HostMeasurements
    from pycm.twin.envelope import Envelope
    from pycm.twin.session import Device

COMMANDS = "command///req/#"
EVENTS = "e"
_PREFIX = "command///req/"
_REQUEST_PATH = f"/features/{ID}/inbox/messages/request"
_DATA_PATH = f"/features/{ID}/outbox/messages/{DATA}"
#: Measured if a request has no filter.
DEFAULT = (Filter(SYSTEM, frozenset(), (CPU_UTILIZATION, MEMORY_UTILIZATION)),)


class Accepted(NamedTuple):
    """A request that is being served. Each data message carries its `correlation_id`."""

    request: Request
    correlation_id: str


class SystemMetrics:
    """*new_id* makes the correlation id of the feature's registration."""

    commands = COMMANDS

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._device: Device | None = None
        self._accepted: Accepted | None = None

    @property
    def kept(self) -> dict[str, Any] | None:
        if self._accepted is None:
            return None
        request, correlation_id = self._accepted
        return {"argument": request.as_argument(), "correlation": correlation_id}

    def restore(self, kept: Any) -> None:
        """Continue the request after a restart of the agent."""
        if isinstance(kept, dict) and isinstance(kept.get("correlation"), str):
            try:
                self._accept(kept.get("argument"), kept["correlation"])
            except InvalidInputError:  # of another version
                self._accepted = None

    def forget(self) -> None:
        """The device has changed."""
        self._accepted = None

    def is_command(self, topic: str) -> bool:
        return topic.startswith(_PREFIX)

    # ── registration ──

    def begin(self, device: Device) -> list[Decision]:
        """The device is known: publish the feature, subscribe, continue to measure."""
        self._device = device
        headers = {"response-required": False, "correlation-id": self._new_id()}
        topic = f"{_ditto(device)}/things/twin/commands/modify"
        payload = ditto.encode(topic, headers, f"/features/{ID}", {"definition": [Metrics.definition]})
        key = f"{EVENTS}/features/{ID}"
        return [Subscribe(COMMANDS), Publish(EVENTS, payload, key), *self._measure(resume=True)]

    def delete(self, device_id: str) -> Publish:
        """The device is not ours any more."""
        topic = f"{device_id.replace(':', '/', 1)}/things/twin/commands/delete"
        headers = {"response-required": False, "correlation-id": self._new_id()}
        return Publish(EVENTS, ditto.encode(topic, headers, f"/features/{ID}"), f"{EVENTS} {device_id}")

    def end(self) -> list[Decision]:
        self._device = None
        return [Measure(None, MACHINE)]

    def _measure(self, *, resume: bool = False) -> list[Decision]:
        if self._accepted is None:
            return [Measure(None, MACHINE)]
        period = self._accepted.request.period / durations.SECOND
        return [HostBaseline(MACHINE), Measure(period, MACHINE, resume)]

    # ── requests ──

    def message(self, topic: str, payload: bytes) -> list[Decision]:
        """Drop without an answer what is not a request for this device, as the original does: other programs receive
        it, too.
        """
        try:
            envelope = ditto.decode(payload)
        except InvalidInputError as error:
            return [ignored(topic, str(error))]
        parts = topic.split("/")
        device = self._device
        if device is None or len(parts) != 6 or not envelope.topic.startswith(f"{_ditto(device)}/things/"):
            return [ignored(topic, "it is not for this device", logging.DEBUG)]
        if envelope.path != _REQUEST_PATH:
            return [ignored(topic, f"{shorten(envelope.path)} is not the path of a request", logging.DEBUG)]
        try:
            self._accept(envelope.value, envelope.text_header("correlation-id"))
        except InvalidInputError as error:
            answer = _answer(parts[4], envelope, Problem(Kind.INVALID, str(error)))
            return [ignored(topic, str(error)), *answer]
        return [*self._measure(), *_answer(parts[4], envelope)]

    def _accept(self, argument: Any, correlation_id: str) -> None:
        request = decode_request(argument)
        whole_seconds = request.period // durations.SECOND * durations.SECOND  # the original's clock ticks so
        filters = tuple(map(_of_machine, request.filters)) if request.filters is not None else DEFAULT
        request = Request(whole_seconds, filters)
        self._accepted = Accepted(request, correlation_id) if whole_seconds > 0 else None

    # ── measurements ──

    def due(self) -> dict[str, frozenset[str]]:
        return self._accepted.request.host() if self._accepted and self._device else {}

    def measured(self, host: Sequence[HostMeasurements], unix_seconds: int) -> list[Decision]:
        value = data_value((), host, unix_seconds)
        if value is None or self._device is None or self._accepted is None:
            return []
        headers = {"content-type": ditto.JSON_TYPE, "response-required": False}
        if self._accepted.correlation_id:
            headers["correlation-id"] = self._accepted.correlation_id
        topic = f"{_ditto(self._device)}/things/live/messages/{DATA}"
        return [Publish(EVENTS, ditto.encode(topic, headers, _DATA_PATH, value), f"{EVENTS}{_DATA_PATH}")]


def _ditto(device: Device) -> str:
    """namespace/name, as Ditto's topics begin."""
    return device.device_id.replace(":", "/", 1)


def _of_machine(entry: Filter) -> Filter:
    return entry if entry.originator else entry._replace(originator=SYSTEM)


def _answer(request_id: str, envelope: Envelope, problem: Problem | None = None) -> list[Decision]:
    if not request_id or envelope.headers.get("response-required") is not True:
        return []
    headers: dict[str, Any] = {"response-required": False}
    if correlation := envelope.text_header("correlation-id"):
        headers["correlation-id"] = correlation
    value = ditto.ABSENT
    status = 204
    if problem is not None:
        name, status = problem.kind.value
        headers["content-type"] = ditto.JSON_TYPE
        value = {"error": name, "status": status}
    action = envelope.topic.rsplit("/", 1)[1]
    path = f"/features/{ID}/outbox/messages/{action}"
    payload = ditto.encode(envelope.topic, headers, path, value, status)
    return [Publish(f"command///res/{request_id}/{status}", payload)]
