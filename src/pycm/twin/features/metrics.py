# SPDX-License-Identifier: Apache-2.0
"""The feature `Metrics`: one request at a time asks for measurements at a period.

They are measurements of containers, and system metrics where an entry of the filter names the machine or a process as
its originator. A request ends when it is replaced or the device changes; a loss of the connection interrupts it only.
There is no timer and no sample here: the core requests both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pycm.errors import InvalidInputError, shorten
from pycm.model import durations
from pycm.model.measurements import ALL_IDS, CPU_UTILIZATION, STANDARD_IDS, host_ids, matches
from pycm.model.states import ALIVE
from pycm.twin.envelope import members
from pycm.twin.features import Arguments, Feature, Reaction
from pycm.twin.features.container import feature_id
from pycm.twin.outbox import CONTAINERS, Baseline, Decision, HostBaseline, Measure
from pycm.twin.session import CONTAINER_PREFIX

if TYPE_CHECKING:
    from pycm.model.container import Container
    from pycm.ports import ContainerMeasurements, HostMeasurements
    from pycm.twin.features import Operations

ID = "Metrics"
DATA = "data"

#: Shorter periods are raised to this.
SHORTEST = durations.SECOND
_LONGEST = (1 << 63) - 1
#: Entries of a filter, ids of an entry and ids of all entries; there are 14 measurements and rarely more than 100
# containers.
MAX_FILTERS = 1024
MAX_IDS, MAX_ALL_IDS = 256, 8192

Wanted = Mapping[str, Callable[[str], bool] | None]


class Due(NamedTuple):
    """What to sample now: measurements of containers, and system metrics by originator."""

    containers: Wanted = MappingProxyType({})
    host: Mapping[str, frozenset[str]] = MappingProxyType({})


class Filter(NamedTuple):
    """`originator` "" means every container. `accepted`: the measurement ids that it selects, `texts`: as requested."""

    originator: str
    accepted: frozenset[str]
    texts: tuple[str, ...] = ()

    @property
    def is_host(self) -> bool:
        return bool(self.originator) and not self.originator.startswith(CONTAINER_PREFIX)


class Request(NamedTuple):
    """`period` in nanoseconds, 0 or less: end. `filters` None: all standard measurements of all containers."""

    period: int
    filters: tuple[Filter, ...] | None = None

    def as_argument(self) -> dict[str, Any]:
        """The argument that reads as the same request."""
        found: dict[str, Any] = {"frequency": durations.format_duration(self.period)}
        if self.filters is not None:
            found["filter"] = [{"originator": f.originator, "id": list(f.texts)} for f in self.filters]
        return found

    def accepted(self, container_id: str) -> frozenset[str] | None:
        """Measurement ids selected for this container; None: the standard ones."""
        if self.filters is None:
            return None
        originator = feature_id(container_id)
        sets = (entry.accepted for entry in self.filters if entry.originator in ("", originator))
        return frozenset().union(*sets)

    def host(self) -> dict[str, frozenset[str]]:
        """Ids of the selected system metrics, by originator in the order of the filter."""
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
    """Raises InvalidInputError with the text of the answer."""
    given, found = Arguments(argument), members(argument)
    period = _period(found["frequency"]) if "frequency" in found else 0
    if 0 < period < SHORTEST:
        period = SHORTEST
    filters: list[Filter] = []
    ids = 0
    for entry in given.children("filter", MAX_FILTERS, null=True):
        texts = entry.texts("id", MAX_IDS)
        ids += len(texts)
        if ids > MAX_ALL_IDS:
            raise InvalidInputError(f"filter: more than {MAX_ALL_IDS} ids in all entries")
        filters.append(Filter(entry.text("originator"), _accepted(texts), texts))
    return Request(period, tuple(filters) or None)


def _period(frequency: Any) -> int:
    """Nanoseconds of a Go duration (text) or of whole seconds (a number)."""
    if isinstance(frequency, str):
        return durations.parse_duration(frequency)
    if isinstance(frequency, bool) or not isinstance(frequency, (int, float)):
        raise InvalidInputError(f"invalid duration: {_as_go_prints(frequency)}")
    period = int(frequency) * durations.SECOND
    if abs(period) > _LONGEST:
        raise InvalidInputError(f"invalid duration: {shorten(frequency)} seconds do not fit into a duration")
    return period


def _as_go_prints(value: Any) -> str:
    """Go has its own words for null, true and false; other values are shown as in JSON."""
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else shorten(value)


def _accepted(texts: Sequence[str]) -> frozenset[str]:
    if not texts:
        return frozenset(STANDARD_IDS)
    return frozenset(known for known in ALL_IDS if any(matches(known, text) for text in texts))


# ── the feature ──


class Metrics(Feature):
    """*containers*: those that the twin shows."""

    definition = "com.bosch.iot.suite.edge.metric:Metrics:1.0.0"

    def __init__(self, containers: Callable[[], Iterable[Container]]) -> None:
        self._containers = containers
        self.request: Request | None = None

    @property
    def argument(self) -> dict[str, Any] | None:
        """The argument that `restore` reads the current request from; None if there is none."""
        return self.request.as_argument() if self.request else None

    def restore(self, argument: Any) -> None:
        """Continue the request after a restart of the agent."""
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

    operations: ClassVar[Operations] = {"request": _request}

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
        """The selected measurements of each running container, and the system metrics."""
        if self.request is None:
            return Due()
        selected: dict[str, Callable[[str], bool] | None] = {}
        for container in self._alive():
            accepted = self.request.accepted(container.id)
            if accepted is None:
                selected[container.id] = None
            elif accepted:
                selected[container.id] = accepted.__contains__
        return Due(selected, self.request.host())


def data_value(
    samples: Sequence[ContainerMeasurements], host: Sequence[HostMeasurements], unix_seconds: int
) -> dict[str, Any] | None:
    """The value of a data message; None if nothing was measured."""
    measured = [(feature_id(sample.container_id), sample.measurements) for sample in samples]
    measured += [(sample.originator, sample.measurements) for sample in host]
    snapshot = [
        {"originator": originator, "measurements": [{"id": one.id, "value": one.value} for one in found]}
        for originator, found in measured
        if found
    ]
    return {"snapshot": snapshot, "timestamp": unix_seconds} if snapshot else None
