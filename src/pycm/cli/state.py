# SPDX-License-Identifier: Apache-2.0
"""The commands that change the state of a container: start, stop, restart, pause, unpause, rename and remove."""

from __future__ import annotations

from pycm.cli.choose import check_choice, find_by_id, find_by_name, find_chosen, id_of, name_of, status_of
from pycm.cli.line import EXAMPLE_ID, NAME, Command, Line, for_one
from pycm.errors import ConflictError, InvalidInputError, OperationFailedError, PycmError, UnavailableError
from pycm.flags import Flag
from pycm.model.durations import SECOND, parse_duration

TIME = Flag(
    "time", "t", about="time to wait for the exit: 15s, 1m15s (default: the agent's)", word="duration"
)

# compat
_START_REFUSALS = {
    "Dead": "the container with ID = {} is dead and to be removed - cannot start it",
    "Running": "the container with ID = {} is already running - cannot start it again",
    "Paused": "the container with ID = {} is paused - cannot start it - use unpause instead",
}


def start(line: Line) -> int:
    container = find_chosen(line)
    refusal = _START_REFUSALS.get(status_of(container))
    if refusal:
        raise ConflictError(refusal.format(id_of(container)))
    output, keys = line.values["a"], line.values["i"]
    if not (output or keys):
        line.agent.start(id_of(container))
        return 0
    from pycm.cli.exec import check_terminal, join

    check_terminal(container, output=output)
    return join(line, container, stdin=keys, then=lambda: line.agent.start(id_of(container)))


def stop(line: Line) -> None:
    from pycm.model.units import parse_signal

    check_choice(line.rest, line.values["name"])
    timeout = whole_seconds(line.values["time"])
    parse_signal(line.values["signal"])
    container = find_chosen(line)
    line.agent.stop(
        id_of(container), timeout=timeout, force=line.values["force"], signal=line.values["signal"]
    )


def whole_seconds(text: str) -> int:
    """Round a duration to seconds, half up; "" is 0, the agent's default. Errors: InvalidInputError."""
    if not text:
        return 0
    nanoseconds = parse_duration(text)
    if nanoseconds < 0:
        raise InvalidInputError(f"the timeout = {-(-nanoseconds // SECOND)} shouldn't be negative")  # compat
    return (nanoseconds + SECOND // 2) // SECOND


def restart(line: Line) -> None:
    line.agent.act(id_of(find_chosen(line)), "restart")


def pause(line: Line) -> None:
    line.agent.act(id_of(find_chosen(line)), "pause")


def unpause(line: Line) -> None:
    line.agent.act(id_of(find_chosen(line)), "unpause")


def rename(line: Line) -> None:
    from pycm.model.validation import check_name

    if not line.rest:
        raise InvalidInputError("accepts 1 or 2 arg(s), received 0")  # compat
    *ids, new_name = line.rest
    name = line.values["name"]
    check_choice(ids, name)
    check_name(new_name)
    container = find_by_name(line.agent, name) if name else find_by_id(line.agent, ids[0])
    if name_of(container) == new_name:
        raise InvalidInputError(f"the new name = {new_name} shouldn't be the same")  # compat
    line.agent.rename(id_of(container), new_name)


def remove(line: Line) -> None:
    name = line.values["name"]
    check_choice(line.rest, name)
    timeout = whole_seconds(line.values["time"])
    ids = [id_of(find_by_name(line.agent, name))] if name else [word for word in line.rest if word]
    failures: list[PycmError] = []
    for container_id in ids:
        try:
            container = find_by_id(line.agent, container_id)
            line.agent.remove(id_of(container), force=line.values["force"], timeout=timeout)
        except UnavailableError:
            raise
        except PycmError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        listed = "".join(f"* {error}\n" for error in failures)
        text = "containers couldn't be removed due to the following reasons: \n\n"  # compat
        raise OperationFailedError(text + listed)


COMMANDS = {
    "start": for_one(
        start,
        "start",
        "start --a --i -n shell",
        flags=(
            Flag("a", kind="bool", about="attach: print the output until the container exits, then exit with its code"),
            Flag("i", kind="bool", about="like --a, and forward stdin; Ctrl-P Ctrl-Q detaches from a terminal"),
        ),
    ),
    "stop": for_one(
        stop,
        "stop",
        "stop -n databroker -f -t 5s",
        "stop -n databroker -s SIGINT",
        flags=(
            TIME,
            Flag("force", "f", kind="bool", about="kill all processes of the container if it does not exit in time"),
            Flag("signal", "s", default="SIGTERM", about="signal to send: name or number"),
        ),
    ),
    "restart": for_one(restart, "restart"),
    "pause": for_one(pause, "pause"),
    "unpause": for_one(unpause, "unpause"),
    "rename": Command(
        rename,
        "rename [<container-id>] <new-name> [flags]",
        (f"rename {EXAMPLE_ID} databroker", "rename -n databroker databroker-old"),
        flags=(NAME,),
        arguments=2,
    ),
    "remove": Command(
        remove,
        "remove [<container-id>...] [flags]",
        (f"remove {EXAMPLE_ID}", "remove -f -t 5s -n databroker", "remove -f $(kanto-cm list --quiet)"),
        flags=(NAME, TIME, Flag("force", "f", kind="bool", about="stop a running container first")),
    ),
}  # fmt: skip
