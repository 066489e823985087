# SPDX-License-Identifier: Apache-2.0
"""A listener of the MQTT connection that writes down what it is told."""

from __future__ import annotations


class Listener:
    """events: "up", "down", and (topic, payload) of messages, in order. retained: topics of those that the broker had kept."""

    def __init__(self) -> None:
        self.events: list[str | tuple[str, bytes]] = []
        self.retained: list[str] = []

    def mqtt_connected(self) -> None:
        self.events.append("up")

    def mqtt_disconnected(self) -> None:
        self.events.append("down")

    def mqtt_message(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        self.events.append((topic, payload))
        if retained:
            self.retained.append(topic)
