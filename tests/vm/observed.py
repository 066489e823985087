# SPDX-License-Identifier: Apache-2.0
"""What the guest saw, as the tests ask for it: figures of the twin's data messages and the cgroup files read beside them."""

from __future__ import annotations

from typing import Any


class Observed:
    """The guest's record; "run" in the names below is the first agent's time, before it was killed."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.cpus: int = raw["cpus"]
        self.messages: list[dict[str, Any]] = raw["messages"]
        self.containers: dict[str, dict[str, Any]] = raw["containers"]
        self.restart: dict[str, Any] = raw["restart"]
        self.samples = [s for s in raw["samples"] if s["message"] < self.restart["first_message"]]
        self.later_samples = [s for s in raw["samples"] if s["message"] >= self.restart["first_message"]]

    def originator(self, name: str) -> str:
        return f"Container:{self.containers[name]['id']}"

    def measurements(self, sample: dict[str, Any], name: str) -> dict[str, float]:
        """A container's measurements in the data message of a sample; empty if it has none."""
        snapshot = self.messages[sample["message"]]["payload"]["value"]["snapshot"]
        found = [entry["measurements"] for entry in snapshot if entry["originator"] == self.originator(name)]
        return {m["id"]: m["value"] for m in found[0]} if found else {}

    def series(self, name: str, measurement: str) -> list[float]:
        """A measurement in each data message of the run that has it."""
        values = [self.measurements(sample, name) for sample in self.samples]
        return [v[measurement] for v in values if measurement in v]

    def file_series(self, name: str, file: str) -> list[tuple[float, str]]:
        """A cgroup file as it was at each data message of the run: time of reading (monotonic) and content."""
        return [(s["files"][name]["at"], s["files"][name][file]) for s in self.samples]

    def states(self, name: str) -> list[dict[str, Any]]:
        """States of a container in the order in which the twin was told."""
        return [
            state for message in self.messages if (state := self._state(message["payload"], name)) is not None
        ]

    def _state(self, payload: Any, name: str) -> dict[str, Any] | None:
        feature = f"/features/{self.originator(name)}"
        path = payload.get("path", "") if isinstance(payload, dict) else ""
        if path == feature:
            return payload["value"]["properties"]["status"]["state"]
        if path == f"{feature}/properties/status/state":
            return payload["value"]
        return None


def keyed(text: str) -> dict[str, int]:
    """A cgroup file of lines "key value"."""
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
