# SPDX-License-Identifier: Apache-2.0
"""Commands of clients in containers: what is refused, bounds, how they end, and what is done when they ended just now."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from pycm.containers import sessions
from pycm.containers.sessions import Sessions
from pycm.errors import (
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
)
from pycm.model.container import Container, IOConfig, State
from pycm.model.states import Status
from pycm.ports import Command, ExecListener, ExecRequest, TaskIO
from support.fakes import FakeLogs, FakeRuntime

WAIT = 60.0


class Pipes:
    """ports.Pipes. `ended` and `idle` are what a test says."""

    def __init__(self) -> None:
        self.io = TaskIO(stdout="/pipes/stdout")
        self.idle = self.ended = False
        self.begun = self.input_ended = self.closed = False
        self.written: list[bytes] = []

    async def read(self, stream: int) -> bytes:
        return b"out%d" % stream

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    def started(self) -> None:
        self.begun = True

    def end_input(self) -> None:
        self.input_ended = True

    def close(self) -> None:
        self.closed = True


class Logs(FakeLogs):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Pipes] = []

    def pipes(self, container_id: str, exec_id: str, *, terminal: bool, stdin: bool) -> Pipes:
        self.made.append(Pipes())
        return self.made[-1]


class Runtime(FakeRuntime):
    """Its commands end when a test says so: `codes`. `slow_end`: a cancelled one has to be cancelled again."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: asyncio.Queue[int] = asyncio.Queue()
        self.cancelled = 0
        self.slow_end = False

    async def exec(
        self, request: ExecRequest, timeout: float | None = None, listener: ExecListener | None = None
    ) -> int:
        self._called("exec", request.id)
        self.execs.append(request)
        assert listener is not None
        try:
            listener.started()
            code = await self.codes.get()
            await listener.exited()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.slow_end:
                await asyncio.Event().wait()
            raise
        return code


class Known:
    """As much of ports.Containers as sessions need."""

    def __init__(self) -> None:
        self.present: dict[str, Container] = {}

    def put(self, identifier: str, status: Status = Status.RUNNING, *, tty: bool = False) -> None:
        self.present[identifier] = Container(
            id=identifier, io_config=IOConfig(tty=tty), state=State(status=status)
        )

    def get(self, identifier: str) -> Container | None:
        return self.present.get(identifier)


class Room:
    def __init__(self) -> None:
        self.known, self.runtime, self.logs = Known(), Runtime(), Logs()
        self.known.put("a")
        self.sessions = Sessions(self.known, self.runtime, self.logs)  # type: ignore[arg-type]


@pytest.fixture
async def room() -> Room:
    return Room()


def command(*args: str, **more: object) -> Command:
    return Command("a", args or ("true",), **more)  # type: ignore[arg-type]


async def test_a_command_runs_and_ends_with_its_code(room: Room) -> None:
    async with room.sessions.exec(command("ls", env=("A=1",), cwd="/w", user="12:34")) as session:
        (request,) = room.runtime.execs
        assert (request.id, request.args, request.env, request.cwd) == ("a", ("ls",), ("A=1",), "/w")
        assert request.user == (12, 34, ())
        assert room.logs.made[0].begun
        assert await session.read(1) == b"out1"
        await session.write(b"x")
        assert room.logs.made[0].written == [b"x"]
        room.logs.made[0].ended = True
        room.runtime.codes.put_nowait(7)
        assert await asyncio.wait_for(session.exit_code(), WAIT) == 7
    assert room.logs.made[0].closed
    assert room.runtime.cancelled == 0


async def test_leaving_a_command_ends_it(room: Room) -> None:
    async with room.sessions.exec(command()):
        pass
    assert room.runtime.cancelled == 1
    assert room.logs.made[0].closed


async def test_a_client_that_goes_away_twice_leaves_no_pipes_open(room: Room) -> None:
    """Its call is cancelled by the reset, and while the command is being ended by the end of the connection."""
    room.runtime.slow_end = True
    call = asyncio.ensure_future(_begin(room, command(), stay=True))
    while not room.logs.made or not room.logs.made[0].begun:
        await asyncio.sleep(0)
    call.cancel()
    while not room.runtime.cancelled:
        await asyncio.sleep(0)
    assert not room.logs.made[0].closed
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    for _ in range(10):
        await asyncio.sleep(0)
    assert room.logs.made[0].closed
    assert room.sessions._commands == {}


async def test_output_that_was_not_read_yet_holds_up_the_end(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "QUIET", 0.002)
    monkeypatch.setattr(sessions, "STEP", 0.001)
    async with room.sessions.exec(command()) as session:
        room.runtime.codes.put_nowait(0)
        code = asyncio.ensure_future(session.exit_code())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not code.done()
        room.logs.made[0].ended = True
        assert await asyncio.wait_for(code, WAIT) == 0


async def test_what_a_command_left_running_does_not_hold_up_its_end(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "QUIET", 3 * sessions.STEP)
    async with room.sessions.exec(command()) as session:
        room.logs.made[0].idle = True  # all was read, and somebody still has the output open
        room.runtime.codes.put_nowait(3)
        assert await asyncio.wait_for(session.exit_code(), WAIT) == 3


async def test_a_command_that_cannot_be_started_leaves_nothing(room: Room) -> None:
    room.runtime.fail["exec"] = OperationFailedError("why")
    for _ in range(sessions.MOST_COMMANDS + 1):
        with pytest.raises(OperationFailedError, match="why"):
            await _begin(room, command())
    assert all(pipes.closed for pipes in room.logs.made)
    assert room.sessions._commands == {}


async def _begin(room: Room, wanted: Command, *, stay: bool = False) -> None:
    async with room.sessions.exec(wanted):
        if stay:
            await asyncio.Event().wait()


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.RUNNING])
async def test_commands_run_in_running_containers_only(room: Room, status: Status) -> None:
    room.known.put("a", status)
    with pytest.raises(ConflictError, match=f"is not running - current status is {status.word}"):
        await _begin(room, command())
    with pytest.raises(NotFoundError, match="no such container with id = b exists"):
        await _begin(room, Command("b", ("true",)))
    assert room.runtime.execs == []


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Command("a", ()), "the command is missing"),
        (Command("a", ("",)), "the command is missing"),
        (command("x\0y"), "cannot be part of a command"),
        (command("x" * (sessions.LONGEST_WORD + 1)), "cannot be part of a command"),
        (command(*["x"] * (sessions.MOST_WORDS + 1)), "words and variables: 4096 are allowed"),
        (command(env=("A",)), "the variable 'A' is not NAME=value"),
        (command(env=("=secret",)), "the variable '' is not NAME=value"),
        (command(cwd="rel"), "the working directory 'rel' is not an absolute path"),
        (command(width=70_000, height=1), "must be between 1 and 65535, got 70000 and 1"),
        (command(width=80), "must be between 1 and 65535, got 80 and 0"),
        (command(user="nobody"), "'nobody' is not in its /etc/passwd"),
    ],
)
async def test_a_command_that_makes_no_sense_is_refused(room: Room, wanted: Command, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await _begin(room, wanted)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert room.runtime.execs == []


async def test_there_is_a_bound_for_a_container_and_one_for_all_and_room_when_one_ends(room: Room) -> None:
    async with AsyncExitStack() as stack:
        for number in range(sessions.MOST_COMMANDS_AT_ALL):
            name = f"c{number // sessions.MOST_COMMANDS}"
            room.known.put(name)
            await stack.enter_async_context(room.sessions.exec(Command(name, ("true",))))
            if number == sessions.MOST_COMMANDS - 1:
                with pytest.raises(BusyError, match="too many commands run already \\(8 in container c0"):
                    await _begin(room, Command("c0", ("true",)))
        with pytest.raises(BusyError, match="32 in all containers together"):
            await _begin(room, command())
    await _begin(room, command())


async def test_sizes_and_signals_reach_the_command(room: Room) -> None:
    async with room.sessions.exec(command(terminal=True, stdin=True, width=80, height=25)) as session:
        await session.resize(99, 33)
        await session.end_input()
        room.runtime.fail["signal"] = NotFoundError("no such process")
        await session.signal(15)
        assert [name for name, _ in room.runtime.calls][-4:] == [
            "resize 80x25",
            "resize 99x33",
            "close_stdin",
            "signal",
        ]
        assert room.logs.made[0].input_ended
        for number in (0, 65):
            with pytest.raises(InvalidInputError, match=f"invalid signal = {number}"):
                await session.signal(number)


@pytest.mark.parametrize("failure", [NotFoundError("gone"), ConflictError("gone")])
async def test_a_command_that_ended_just_now_is_no_error(room: Room, failure: PycmError) -> None:
    async with room.sessions.exec(command(terminal=True, stdin=True)) as session:
        for method in ("signal", "close_stdin", "resize 1x1"):
            room.runtime.fail[method] = failure
        await session.signal(9)
        await session.end_input()
        await session.resize(1, 1)


async def test_a_command_without_terminal_has_no_size(room: Room) -> None:
    async with room.sessions.exec(command()) as session:
        with pytest.raises(InvalidInputError, match="no terminal whose size"):
            await session.resize(80, 25)


# ── the first process ──


async def test_a_client_is_attached_to_a_run_or_to_the_next_one(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    connect = room.logs.connect

    async def noted(container_id: str, *, next_run: bool) -> object:
        asked.append(next_run)
        return await connect(container_id, next_run=next_run)

    monkeypatch.setattr(room.logs, "connect", noted)
    for status in (Status.RUNNING, Status.PAUSED, Status.CREATED, Status.EXITED):
        room.known.put("a", status)
        await room.sessions.attach("a")
    assert asked == [False, False, True, True]
    with pytest.raises(NotFoundError):
        await room.sessions.attach("b")


async def test_the_end_of_stdin_of_what_does_not_run_is_nothing(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    room.known.put("ended", Status.EXITED)
    for identifier in ("ended", "b"):
        await room.sessions.close_stdin(identifier)
    assert room.runtime.calls == []
    room.runtime.fail["close_stdin"] = NotFoundError("it has ended")
    await room.sessions.close_stdin("a")
    assert caplog.text == ""
    room.runtime.fail["close_stdin"] = OperationFailedError("why")
    await room.sessions.close_stdin("a")
    assert "container a: its stdin may stay open: why" in caplog.text


async def test_sizes_are_for_running_containers_with_a_terminal(room: Room) -> None:
    room.known.put("t", tty=True)
    await room.sessions.resize("t", 80, 25)
    assert room.runtime.calls == [("resize 80x25", "t")]
    with pytest.raises(ConflictError, match="has no terminal"):
        await room.sessions.resize("a", 80, 25)
    room.known.put("t", Status.STOPPED, tty=True)
    with pytest.raises(ConflictError, match="is not running - current status is Stopped"):
        await room.sessions.resize("t", 80, 25)
    with pytest.raises(InvalidInputError, match="must be between 1 and 65535, got 0 and 25"):
        await room.sessions.resize("t", 0, 25)
