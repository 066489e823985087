# SPDX-License-Identifier: Apache-2.0
"""What the fronts need: the core, and the two outside rooms that only fronts use, downloads and the MQTT connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from pycm.model.container import Container, StopOptions, UpdateOptions
    from pycm.model.states import Action
    from pycm.ports import Attachment


class Event(NamedTuple):
    """One change; `container` is the container as it was right after it."""

    action: Action
    container: Container


class Containers(Protocol):
    """The container manager. `list` and `get` answer from memory, always at once."""

    def get(self, container_id: str) -> Container | None: ...

    def list(self) -> list[Container]:
        """All containers by time of creation, then id."""

    async def create(self, container: Container) -> Container: ...

    async def start(self, container_id: str) -> None: ...

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None: ...

    async def pause(self, container_id: str) -> None: ...

    async def unpause(self, container_id: str) -> None: ...

    async def rename(self, container_id: str, name: str) -> None: ...

    async def update(self, container_id: str, options: UpdateOptions) -> None: ...

    async def remove(
        self, container_id: str, *, force: bool = False, options: StopOptions | None = None
    ) -> None: ...

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call *listener*, which must not block, for every event in order. Return the function that ends this."""


class Command(NamedTuple):
    """A command for `Sessions.exec`. *user* as in images; sizes in characters, 0 for none."""

    container_id: str
    args: tuple[str, ...]
    terminal: bool = False
    stdin: bool = False
    env: tuple[str, ...] = ()
    user: str = ""
    cwd: str = ""
    width: int = 0
    height: int = 0


class Session(Protocol):
    """A command that runs in a container. Leaving its block ends it."""

    async def read(self, stream: int) -> bytes:
        """As Pipes.read."""

    async def write(self, data: bytes) -> None: ...

    async def end_input(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def signal(self, number: int) -> None: ...

    async def exit_code(self) -> int:
        """Waits for the end."""


class Sessions(Protocol):
    """Clients that talk with the processes of containers."""

    def exec(self, command: Command) -> AbstractAsyncContextManager[Session]:
        """Start a command. NotFoundError, ConflictError (the container's state, a bound), InvalidInputError;
        OperationFailedError if it cannot be started.
        """

    async def attach(self, container_id: str) -> Attachment:
        """Attach a client to the container's run, or to its next one. NotFoundError, ConflictError."""

    async def close_stdin(self, container_id: str) -> None:
        """End the stdin of a running container. Without effect on one that has none or does not run."""

    async def resize(self, container_id: str, width: int, height: int) -> None:
        """Set the size of the container's terminal, in characters. NotFoundError, ConflictError, InvalidInputError."""


# ── downloads ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Downloads(Protocol):
    """Small files of the Web, in memory."""

    async def fetch(self, url: str, limit: int) -> bytes:
        """Return the body; an interrupted download resumes. OperationFailedError on failure or beyond *limit*."""


# ── MQTT ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class MqttListener(Protocol):
    """A listener of the connection. Its methods run on the event loop and must not block."""

    def mqtt_connected(self) -> None: ...

    def mqtt_disconnected(self) -> None: ...

    def mqtt_message(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """*retained*: the broker had kept it from before the subscription."""


class Mqtt(Protocol):
    """The one connection to the broker. It connects, and reconnects, for ever with back-off."""

    def add_listener(self, listener: MqttListener) -> None: ...

    async def subscribe(self, topic: str) -> None:
        """QoS 1; returns when acknowledged. UnavailableError on loss of the connection or after the configured
        time-out.
        """

    async def unsubscribe(self, topic: str) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """QoS 1; returns when acknowledged. UnavailableError on loss of the connection or after the configured
        time-out.
        """

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
