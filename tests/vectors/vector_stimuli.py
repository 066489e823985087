# SPDX-License-Identifier: Apache-2.0
"""What happens in a vector without a message: its words to one of a few known happenings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Stimulus:
    """kind: connect, lose, reconnect, exit, create, start, stop, pause, resume, rename, remove, update."""

    kind: str
    container: str = ""
    code: int = 0
    oom: bool = False
    text: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


_ID = r"(?:container )?(?P<container>\S+)"
#: First match counts.
_FORMS: tuple[tuple[str, str], ...] = (
    ("reconnect", r".*\b(re-?connect\w*|broker restart\w*)\b.*"),
    ("lose", r".*\b(disconnect\w*|connection (is )?lost|loses? the connection)\b.*"),
    ("connect", r".*\bconnect\w*\b.*"),
    (
        "exit",
        rf"(?:the )?process of {_ID} (?:exits|ends|exited)(?: with(?: exit)? code (?P<code>\d+))?(?P<rest>.*)",
    ),
    ("exit", rf"(?:the )?process of {_ID} .*(?P<rest>OOM|out of memory).*"),
    ("exit", rf"{_ID} .*(?P<rest>OOM|out of memory).*"),
    ("create", r".*\bcreated?s?\b.*"),
    ("rename", rf"{_ID} (?:is )?renamed(?: locally)?(?: \(\w+\))? to (?P<text>\S+).*"),
    ("update", rf"{_ID} (?:is )?updated.*"),
    ("start", rf"{_ID} (?:is )?started.*"),
    ("stop", rf"{_ID} (?:is )?stopped.*"),
    ("pause", rf"{_ID} (?:is )?paused.*"),
    ("resume", rf"{_ID} (?:is )?(?:resumed|unpaused).*"),
    ("remove", rf"{_ID} (?:is )?(?:removed|deleted).*"),
)
_OOM_CODE = 137


def parse(words: str, given: Mapping[str, Any]) -> Stimulus:
    """*given*: the vector's, for names like C1 and the container to create. ValueError for words that mean nothing here."""
    for kind, form in _FORMS:
        match = re.fullmatch(form, words.strip(), re.IGNORECASE)
        if match:
            return _stimulus(kind, match.groupdict(), given)
    raise ValueError(f"unknown stimulus: {words!r}")


def _stimulus(kind: str, found: Mapping[str, str | None], given: Mapping[str, Any]) -> Stimulus:
    oom = bool(re.search("oom|memory", found.get("rest") or "", re.IGNORECASE))
    code = found.get("code")
    return Stimulus(
        kind,
        container=_container_id(found.get("container") or "", given),
        code=int(code) if code else (_OOM_CODE if oom else 0),
        oom=oom,
        text=(found.get("text") or "").strip("'\""),
        given=given.get("stimulus_container") or {},
    )


def _container_id(word: str, given: Mapping[str, Any]) -> str:
    """C1 is the first container (or the one whose id ends in 1); else an id, a name, or the only one there is."""
    containers = list(given.get("containers") or [])
    for key in ("id", "name"):
        for container in containers:
            if container.get(key) == word:
                return str(container["id"])
    numbered = re.fullmatch(r"C(\d+)", word, re.IGNORECASE)
    if numbered and containers:
        ending = next((c["id"] for c in containers if c["id"].endswith(f"0{numbered[1]}")), None)
        return str(ending or containers[min(int(numbered[1]), len(containers)) - 1]["id"])
    return str(containers[0]["id"]) if containers else word
