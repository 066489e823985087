# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the room that measures: figures that a test or a vector gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.ports import ContainerMeasurements, HostMeasurements, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class FakeMeter:
    def __init__(self, figures: Mapping[str, Sequence[Measurement]]) -> None:
        self.figures = figures
        self.samples = 0

    def sample(self, container_ids: Iterable[str]) -> Sequence[ContainerMeasurements]:
        self.samples += 1
        return [
            ContainerMeasurements(name, tuple(self.figures[name]))
            for name in container_ids
            if name in self.figures
        ]


class FakeMetrics:
    """`figures`: container id to what a meter measures. `ended`: whether a process is gone.

    *stats*, by container or originator: the first entry is the baseline, each later look takes the next, the last one repeats.
    """

    def __init__(self, stats: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> None:
        self._stats = stats or {}
        self._next: dict[str, int] = {}
        self._before: dict[str, Mapping[str, Any]] = {}
        self.opened: dict[str, int] = {}
        self.ended: Callable[[str], bool] = lambda _: False
        self.kills: dict[str, int] = {}
        self.baselined: list[str] = []
        self.figures: dict[str, Sequence[Measurement]] = {}
        self.meters: list[FakeMeter] = []

    def meter(self) -> FakeMeter:
        self.meters.append(FakeMeter(self.figures))
        return self.meters[-1]

    def open(self, container_id: str, pid: int) -> None:
        self.opened.pop(container_id, None)
        if not self.ended(container_id):
            self.opened[container_id] = pid

    def close(self, container_id: str) -> int:
        kills = self.kills.get(container_id, 0) if container_id in self.opened else 0
        self.opened.pop(container_id, None)
        return kills

    def limits_changed(self, container_id: str) -> None:
        pass

    def _take(self, container_id: str) -> Mapping[str, Any] | None:
        entries = self._stats.get(container_id)
        if not entries:
            return None
        index = self._next.get(container_id, 0)
        self._next[container_id] = index + 1
        return entries[min(index, len(entries) - 1)]

    def baseline(self, container_ids: Iterable[str]) -> None:
        for container_id in container_ids:
            self.baselined.append(container_id)
            if (entry := self._take(container_id)) is not None:
                self._before[container_id] = entry

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        found = []
        for container_id, chosen in wanted.items():
            entry = self._take(container_id)
            if entry is None:
                continue
            figures = _figures(self._before.get(container_id), entry)
            self._before[container_id] = entry
            measurements = tuple(Measurement(i, v) for i, v in figures if chosen is None or chosen(i))
            found.append(ContainerMeasurements(container_id, measurements))
        return found

    def host_baseline(self, reader: str) -> None: ...

    def host(self, wanted: Mapping[str, frozenset[str]], reader: str) -> Sequence[HostMeasurements]:
        """`stats` of an originator that is no container: id to value."""
        found = []
        for originator, chosen in wanted.items():
            entry = self._take(originator)
            if entry is not None:
                figures = tuple(Measurement(name, entry[name]) for name in entry if name in chosen)
                found.append(HostMeasurements(originator, figures))
        return found


def _figures(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[tuple[str, float]]:
    figures = []
    if before and now.get("cpu_total", 0) > before.get("cpu_total", 0):
        used = now["cpu_used"] - before["cpu_used"]
        figures.append(
            ("cpu.utilization", min(100.0, max(0.0, 100 * used / (now["cpu_total"] - before["cpu_total"]))))
        )
    if "mem_total" in now:
        figures += [("memory.total", now["mem_total"]), ("memory.used", now["mem_used"])]
        if now["mem_total"]:
            figures.append(("memory.utilization", 100 * now["mem_used"] / now["mem_total"]))
    for name, key in (
        ("io.readBytes", "io_read"),
        ("io.writeBytes", "io_write"),
        ("net.readBytes", "net_read"),
        ("net.writeBytes", "net_write"),
    ):
        if key in now:
            figures.append((name, now[key]))
    if now.get("pids"):
        figures.append(("pids", now["pids"]))
    return [(name, float(value)) for name, value in figures]
