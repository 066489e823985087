# SPDX-License-Identifier: Apache-2.0
"""The calls of the agent's JSON API by name (docs/api.md). Containers are objects in Kanto's JSON form."""

from __future__ import annotations

from pycm.cli.client import Client
from pycm.errors import NotFoundError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from pycm.cli.channel import Channel
    from pycm.model.container import Container, UpdateOptions

#: Seconds for calls that the agent answers from memory. Others may wait for a container, a registry or another call.
DEADLINE = 60.0
#: No ID is longer; a longer one would not fit the head of a request.
MAX_ID = 1024


class Agent:
    """A running agent. Errors of every call: those of Client. *trace* receives each call in advance."""

    def __init__(
        self,
        host: str,
        *,
        timeout: float = 30.0,
        trace: Callable[[str], None] | None = None,
        waiting: Callable[[float], None] | None = None,
        rpc: bool = False,
    ) -> None:
        self._client = Client(host, timeout=timeout, waiting=waiting, rpc=rpc)
        self._trace = trace

    # ── containers ──

    def list_containers(self) -> list[Any]:
        found: list[Any] = self._call("GET", "/v1/containers", deadline=DEADLINE)
        return found

    def get(self, container_id: str) -> Any | None:
        if len(container_id) > MAX_ID:
            return None
        try:
            return self._call("GET", _path(container_id), deadline=DEADLINE)
        except NotFoundError:
            return None

    def create(self, container: Container) -> Any:
        from pycm.model.records import encode

        return self._call("POST", "/v1/containers", encode(container))

    def start(self, container_id: str) -> None:
        self.act(container_id, "start")

    def act(self, container_id: str, action: str) -> None:
        """*action*: start, restart, pause or unpause."""
        self._call("POST", _path(container_id, action))

    def stop(self, container_id: str, *, timeout: int, force: bool, signal: str) -> None:
        """*timeout* in seconds, 0 for the agent's default."""
        options = {"timeout": timeout, "force": force, "signal": signal}
        self._call("POST", _path(container_id, "stop"), options)

    def rename(self, container_id: str, name: str) -> None:
        self._call("POST", _path(container_id, "rename"), {"name": name})

    def update(self, container_id: str, options: UpdateOptions) -> None:
        from pycm.model.records import encode

        self._call("POST", _path(container_id, "update"), encode(options))

    def remove(self, container_id: str, *, force: bool, timeout: int = 0) -> None:
        query = _query(("force", ("true",)), ("timeout", (str(timeout),))) if force else ""
        self._call("DELETE", _path(container_id) + query)

    # ── output, input ──

    def logs(self, container_id: str, tail: int) -> Iterator[str]:
        for line in self._stream("GET", _path(container_id, "logs") + _query(("tail", (str(tail),)))):
            yield line["log"]

    def attach(self, container_id: str, *, stdin: bool) -> Channel:
        """Output of the container's run, or of its next one, from now on: after the return nothing of it is missed."""
        query = _query(("stdin", ("true",))) if stdin else ""
        return self._upgrade(_path(container_id, "attach") + query)

    def exec(self, container_id: str, command: dict[str, Any]) -> Channel:
        """Start a command; the members of *command* are those of the API. Error: NotStartedError."""
        return self._upgrade(_path(container_id, "exec"), command)

    # ── watching ──

    def events(self, container_ids: Iterable[str], actions: Iterable[str]) -> Iterator[Any]:
        return self._stream(
            "GET", "/v1/events" + _query(("id", container_ids), ("action", actions)), patient=True
        )

    def stats(self, container_ids: Iterable[str], *, interval_ms: int, samples: int) -> Iterator[Any]:
        query = _query(
            ("id", container_ids), ("interval_ms", (str(interval_ms),)), ("samples", (str(samples),))
        )
        return self._stream("GET", "/v1/stats" + query, patient=True)

    def wait(self, container_id: str, condition: str, *, seconds: float | None) -> Any:
        """Error: TimeExpiredError if the condition is not met within *seconds*."""
        within = () if seconds is None else (f"{seconds:.3f}",)
        query = _query(("for", (condition,)), ("within", within))
        return self._call("GET", _path(container_id, "wait") + query, patient=True)

    # ── images and the agent ──

    def images(self) -> list[Any]:
        found: list[Any] = self._call("GET", "/v1/images")
        return found

    def pull_image(self, reference: str) -> Iterator[Any]:
        """Yield the progress; the last object has the image."""
        return self._stream("POST", "/v1/images/pull", {"reference": reference})

    def remove_image(self, reference: str) -> None:
        self._call("DELETE", "/v1/images" + _query(("reference", (reference,))))

    def prune_images(self) -> list[str]:
        """Return the references of the removed images."""
        references: list[str] = self._call("POST", "/v1/images/prune")["references"]
        return references

    def version(self) -> Any:
        return self._call("GET", "/v1/version", deadline=DEADLINE)

    def _call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        deadline: float | None = None,
        patient: bool = False,
    ) -> Any:
        self._say(method, target)
        return self._client.call(method, target, body, deadline=deadline, patient=patient)

    def _stream(self, method: str, target: str, body: Any = None, *, patient: bool = False) -> Iterator[Any]:
        self._say(method, target)
        return self._client.stream(method, target, body, patient=patient)

    def _upgrade(self, target: str, body: Any = None) -> Channel:
        self._say("POST", target)
        return self._client.upgrade(target, body)

    def _say(self, method: str, target: str) -> None:
        if self._trace is not None:
            self._trace(f"call {method} {target}")


def quote_path(text: str) -> str:
    """Percent-encode one segment of a path, or one value of a query."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 0x80) or byte in b"-._~" else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def _path(container_id: str, action: str = "") -> str:
    path = f"/v1/containers/{quote_path(container_id)}"
    return f"{path}/{action}" if action else path


def _query(*pairs: tuple[str, Iterable[str]]) -> str:
    words = [f"{name}={quote_path(value)}" for name, values in pairs for value in values]
    return "?" + "&".join(words) if words else ""
