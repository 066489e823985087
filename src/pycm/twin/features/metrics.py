# SPDX-License-Identifier: Apache-2.0
"""The feature `Metrics`: one request at a time asks for figures in a period (shared specification, mqtt-twin 5).

Those of containers, and those of the machine and its processes where an entry of the filter names them as its originator (appendix A).

A request lives until it is replaced or ended, or the device changes; a loss of the connection only interrupts it. Here is no timer and
no sample: the core asks for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, shorten
from pycm.model import durations
from pycm.model.measurements import ALL_IDS, CPU_UTILIZATION, STANDARD_IDS, host_ids, matches
from pycm.model.states import ALIVE
from pycm.twin.envelope import members
from pycm.twin.features.base import Feature, Reaction
from pycm.twin.features.container import feature_id
from pycm.twin.outbox import CONTAINERS, Baseline, Decision, HostBaseline, Measure
from pycm.twin.session import CONTAINER_PREFIX

if TYPE_CHECKING:
    from pycm.model.container import Container
    from pycm.ports import ContainerMeasurements, HostMeasurements

ID = "Metrics"
DATA = "data"

#: Shorter periods are raised to this.
SHORTEST = durations.SECOND
_LONGEST = (1 << 63) - 1
#: Entries of a filter, ids of an entry and ids of all entries; there are 14 figures and rarely more than 100 containers.
MAX_FILTERS = 1024
MAX_IDS, MAX_ALL_IDS = 256, 8192

Wanted = Mapping[str, Callable[[str], bool] | None]


@dataclass(frozen=True)
class Due:
    """What to sample now: of containers, and of the machine and its processes."""

    containers: Wanted = field(default_factory=dict)
    host: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """`originator` "" stands for every container; `accepted` are the ids of figures that it lets through."""

    originator: str
    accepted: frozenset[str]
    texts: tuple[str, ...] = ()

    @property
    def is_host(self) -> bool:
        return bool(self.originator) and not self.originator.startswith(CONTAINER_PREFIX)


@dataclass(frozen=True)
class Request:
    """`period` in nanoseconds, 0 or less: end. `filters` None: all standard figures of all containers."""

    period: int
    filters: tuple[Filter, ...] | None = None

    def as_argument(self) -> dict[str, Any]:
        """What the same request can be read from again; it has nothing that was not asked for."""
        found: dict[str, Any] = {"frequency": durations.format_duration(self.period)}
        if self.filters is not None:
            found["filter"] = [{"originator": f.originator, "id": list(f.texts)} for f in self.filters]
        return found

    def accepted(self, container_id: str) -> frozenset[str] | None:
        """Ids of the figures wanted of this container; None for the standard ones."""
        if self.filters is None:
            return None
        originator = feature_id(container_id)
        sets = (entry.accepted for entry in self.filters if entry.originator in ("", originator))
        return frozenset().union(*sets)

    def host(self) -> dict[str, frozenset[str]]:
        """Ids of the figures wanted of the machine and of processes, by originator in the order of the filter."""
        found: dict[str, frozenset[str]] = {}
        for entry in self.filters or ():
            if entry.is_host:
                before = found.get(entry.originator, frozenset())
                found[entry.originator] = before | host_ids(entry.originator, entry.texts)
        return found

    def wants(self, container_id: str, measurement_id: str) -> bool:
        accepted = self.accepted(container_id)
        return measurement_id in (STANDARD_IDS if accepted is None else accepted)


# ── reading a request ──


def decode_request(argument: Any) -> Request:
    """Errors: InvalidInputError with the text of the answer."""
    if argument is not None and not isinstance(argument, dict):
        raise InvalidInputError(f"the argument of request must be an object, it is {shorten(argument)}")
    found = members(argument)
    period = _period(found["frequency"]) if "frequency" in found else 0
    if 0 < period < SHORTEST:
        period = SHORTEST
    return Request(period, _filters(found.get("filter")))


def _period(frequency: Any) -> int:
    """Text is a Go duration, a number whole seconds."""
    if isinstance(frequency, str):
        return durations.parse_duration(frequency)
    if isinstance(frequency, bool) or not isinstance(frequency, (int, float)):
        raise InvalidInputError(f"invalid duration: {_as_go_prints(frequency)}")
    period = int(frequency) * durations.SECOND
    if abs(period) > _LONGEST:
        raise InvalidInputError(
            f"invalid duration: {shorten(frequency)} seconds are more than a duration can hold"
        )
    return period


def _as_go_prints(value: Any) -> str:
    """null, true and false have words of their own there; what else is no duration is shown as JSON has it."""
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else shorten(value)


def _filters(entries: Any) -> tuple[Filter, ...] | None:
    """No entries are the same as no filter."""
    if not entries and (entries is None or isinstance(entries, list)):
        return None
    if not isinstance(entries, list):
        raise InvalidInputError(f"filter: {shorten(entries)} is not a list")
    if len(entries) > MAX_FILTERS:
        raise InvalidInputError(f"filter: {len(entries)} entries, {MAX_FILTERS} are allowed")
    filters: list[Filter] = []
    ids = 0
    for number, entry in enumerate(entries):
        filters.append(_filter(entry, f"filter[{number}]"))
        ids += len(filters[-1].texts)
        if ids > MAX_ALL_IDS:
            raise InvalidInputError(f"filter: more than {MAX_ALL_IDS} ids in all entries")
    return tuple(filters)


def _filter(entry: Any, where: str) -> Filter:
    if entry is not None and not isinstance(entry, dict):
        raise InvalidInputError(f"{where}: {shorten(entry)} is not an object")
    found = members(entry)
    originator = "" if found.get("originator") is None else found["originator"]
    if not isinstance(originator, str):
        raise InvalidInputError(f"{where}.originator: {shorten(originator)} is not a string")
    texts = _texts(found.get("id"), where)
    return Filter(originator, _accepted(texts), texts)


def _texts(ids: Any, where: str) -> tuple[str, ...]:
    if ids is None:
        return ()
    if not isinstance(ids, list):
        raise InvalidInputError(f"{where}.id: {shorten(ids)} is not a list")
    if len(ids) > MAX_IDS:
        raise InvalidInputError(f"{where}.id: {len(ids)} ids, {MAX_IDS} are allowed")
    texts = ["" if text is None else text for text in ids]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise InvalidInputError(f"{where}.id: {shorten(wrong)} is not a string")
    return tuple(texts)


def _accepted(texts: Sequence[str]) -> frozenset[str]:
    if not texts:
        return frozenset(STANDARD_IDS)
    return frozenset(known for known in ALL_IDS if any(matches(known, text) for text in texts))


# ── the feature ──


class Metrics(Feature):
    definition = "com.bosch.iot.suite.edge.metric:Metrics:1.0.0"

    def __init__(self, containers: Callable[[], Iterable[Container]]) -> None:
        super().__init__()
        self.operations = {"request": self._request}
        self._containers = containers
        self.request: Request | None = None

    @property
    def argument(self) -> dict[str, Any] | None:
        """What the present request is restored from; None if there is none."""
        return self.request.as_argument() if self.request else None

    def restore(self, argument: Any) -> None:
        """After a start of the agent: the request goes on."""
        try:
            self._accept(argument)
        except InvalidInputError:  # of another version
            self.request = None

    def _accept(self, argument: Any) -> None:
        request = decode_request(argument)
        self.request = request if request.period > 0 else None

    def _request(self, _: str, argument: Any) -> Reaction:
        self._accept(argument)
        return Reaction(decisions=tuple(self.begin()))

    def begin(self, *, resume: bool = False) -> list[Decision]:
        """Begin to measure for the request, or stop if there is none. *resume*: see Measure."""
        if self.request is None:
            return [Measure(None)]
        ids = tuple(c.id for c in self._alive() if self.request.wants(c.id, CPU_UTILIZATION))
        baseline: list[Decision] = [Baseline(ids)] if ids else []
        if self.request.host():
            baseline.append(HostBaseline(CONTAINERS))
        return [*baseline, Measure(self.request.period / durations.SECOND, resume=resume)]

    def container_runs(self, container_id: str) -> list[Decision]:
        if self.request is None or not self.request.wants(container_id, CPU_UTILIZATION):
            return []
        return [Baseline((container_id,))]

    def _alive(self) -> list[Container]:
        return [container for container in self._containers() if container.state.status in ALIVE]

    def due(self) -> Due:
        return Due(self.wanted(), self.request.host()) if self.request else Due()

    def wanted(self) -> Wanted:
        """Which figures of which containers; empty if nothing is asked for."""
        wanted: dict[str, Callable[[str], bool] | None] = {}
        if self.request is None:
            return wanted
        for container in self._alive():
            accepted = self.request.accepted(container.id)
            if accepted is None:
                wanted[container.id] = None
            elif accepted:
                wanted[container.id] = accepted.__contains__
        return wanted


def data_value(
    samples: Sequence[ContainerMeasurements], host: Sequence[HostMeasurements], unix_seconds: int
) -> dict[str, Any] | None:
    """The value of a data message; None if nothing was measured."""
    measured = [(feature_id(sample.container_id), sample.measurements) for sample in samples]
    measured += [(sample.originator, sample.measurements) for sample in host]
    snapshot = [
        {"originator": originator, "measurements": [{"id": one.id, "value": one.value} for one in figures]}
        for originator, figures in measured
        if figures
    ]
    return {"snapshot": snapshot, "timestamp": unix_seconds} if snapshot else None
