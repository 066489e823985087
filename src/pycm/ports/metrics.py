# SPDX-License-Identifier: Apache-2.0
"""What measures containers and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Measurement(NamedTuple):
    """A named tuple, since nine of these a container and sweep are made: half the time of a frozen dataclass."""

    id: str
    value: float


@dataclass(frozen=True)
class ContainerMeasurements:
    container_id: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class HostMeasurements:
    """Of the machine, whose originator is SYSTEM, or of the process of that name."""

    originator: str
    measurements: tuple[Measurement, ...]


class Meter(Protocol):
    """One consumer's view of the figures, with CPU shares since its own last sample."""

    def sample(self, container_ids: Iterable[str]) -> Sequence[ContainerMeasurements]:
        """One sweep, all standard figures; the first one of a container has no CPU share. What is not open is left out."""


class Metrics(Protocol):
    """Figures of running containers from their cgroups and /proc."""

    def open(self, container_id: str, pid: int) -> None:
        """The container runs: open its files once. A container that cannot be measured is logged and skipped, never an error."""

    def close(self, container_id: str) -> None: ...

    def limits_changed(self, container_id: str) -> None: ...

    def oom_kills(self, container_id: str) -> int:
        """How often the kernel killed in the container's cgroup for want of memory; 0 if not known."""

    def baseline(self, container_ids: Iterable[str]) -> None:
        """Remember CPU times, so that the next sample of these has a utilization."""

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        """One sweep. *wanted*: container id to a predicate on measurement ids (None: all standard ones), in the order of output."""

    def meter(self) -> Meter:
        """For a consumer beside the one of `baseline` and `sample`."""

    def host_baseline(self, reader: str) -> None:
        """Remember the machine's CPU times, so that the next `host` of the same reader has a utilization."""

    def host(self, wanted: Mapping[str, frozenset[str]], reader: str) -> Sequence[HostMeasurements]:
        """Figures of the machine and of processes. *wanted*: originator to measurement ids, in the order of output."""
