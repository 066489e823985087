# SPDX-License-Identifier: Apache-2.0
"""The cloud's side of a digital twin: what Ditto would hold after the messages that were sent, and nothing of pycm's."""

from __future__ import annotations

from typing import Any


class DittoTwin:
    """`things`: thing id to features. `count`: how many messages changed a twin. Live messages change nothing."""

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Any]] = {}
        self.count = 0

    def apply(self, topic: str, payload: dict[str, Any]) -> bool:
        """False if the message is none for a twin."""
        words = payload.get("topic", "").split("/")
        if not topic.startswith("e/") or words[2:5] != ["things", "twin", "commands"]:
            return False
        thing = f"{words[0]}:{words[1]}"
        assert topic.split("/", 2)[2] == thing, f"{topic} carries a message for {thing}"
        assert payload["headers"] == {"response-required": False}
        path = payload["path"].removeprefix("/").split("/")
        assert path.pop(0) == "features"
        self.count += 1
        self._change(self.things.setdefault(thing, {}), path, words[5], payload)
        return True

    def _change(self, place: dict[str, Any], path: list[str], action: str, payload: dict[str, Any]) -> None:
        """Ditto refuses a property of a feature that it does not have, and so does this."""
        for name in path[:-1]:
            assert name in place, f"{payload['path']} is set before what it is in"
            place = place[name]
        if action == "delete":
            assert "value" not in payload
            place.pop(path[-1], None)
        else:
            assert action == "modify"
            place[path[-1]] = payload["value"]
