# SPDX-License-Identifier: Apache-2.0
"""The commands that change the state of a container: start, stop, restart, pause, unpause, rename and remove."""

from __future__ import annotations

from pycm.cli.choose import by_id, by_name, check_choice, chosen
from pycm.cli.line import NAME, Command, Line
from pycm.errors import ConflictError, InvalidInputError, OperationFailedError, PycmError, UnavailableError
from pycm.flags import Flag
from pycm.model.durations import SECOND, parse_duration

ID = "1d1e3210-cc1b-4355-b3a6-7578ead14dab"
TIME = Flag("time", "t", about="how long to wait for the exit: 15s, 1m15s (default: the agent's)", word="duration")  # fmt: skip

# compat
_START_REFUSALS = {
    "Dead": "the container with ID = {} is dead and to be removed - cannot start it",
    "Running": "the container with ID = {} is already running - cannot start it again",
    "Paused": "the container with ID = {} is paused - cannot start it - use unpause instead",
}


def start(line: Line) -> int:
    container = chosen(line)
    refusal = _START_REFUSALS.get(container.state.status)
    if refusal:
        raise ConflictError(refusal.format(container.id))
    output, keys = line.values["a"], line.values["i"]
    if not (output or keys):
        line.agent.start(container.id)
        return 0
    from pycm.cli.exec import check_terminal, join

    check_terminal(container, output=output)
    return join(line, container, stdin=keys, then=lambda: line.agent.start(container.id))


def stop(line: Line) -> None:
    from pycm.model.units import parse_signal

    check_choice(line.rest, line.values["name"])
    timeout = whole_seconds(line.values["time"])
    parse_signal(line.values["signal"])
    container = chosen(line)
    line.agent.stop(container.id, timeout=timeout, force=line.values["force"], signal=line.values["signal"])


def whole_seconds(text: str) -> int:
    """Round a duration to seconds, half up; "" is 0, the agent's default. Errors: InvalidInputError."""
    if not text:
        return 0
    nanoseconds = parse_duration(text)
    if nanoseconds < 0:
        raise InvalidInputError(f"the timeout = {-(-nanoseconds // SECOND)} shouldn't be negative")  # compat
    return (nanoseconds + SECOND // 2) // SECOND


def restart(line: Line) -> None:
    line.agent.restart(chosen(line).id)


def pause(line: Line) -> None:
    line.agent.pause(chosen(line).id)


def unpause(line: Line) -> None:
    line.agent.unpause(chosen(line).id)


def rename(line: Line) -> None:
    from pycm.model.validation import check_name

    if not line.rest:
        raise InvalidInputError("accepts 1 or 2 arg(s), received 0")  # compat
    *ids, new_name = line.rest
    name = line.values["name"]
    check_choice(ids, name)
    check_name(new_name)
    container = by_name(line.agent, name) if name else by_id(line.agent, ids[0])
    if container.name == new_name:
        raise InvalidInputError(f"the new name = {new_name} shouldn't be the same")  # compat
    line.agent.rename(container.id, new_name)


def remove(line: Line) -> None:
    name = line.values["name"]
    check_choice(line.rest, name)
    timeout = whole_seconds(line.values["time"])
    ids = [by_name(line.agent, name).id] if name else [word for word in line.rest if word]
    failures: list[PycmError] = []
    for container_id in ids:
        try:
            container = by_id(line.agent, container_id)
            line.agent.remove(container.id, force=line.values["force"], timeout=timeout)
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
    "start": Command(
        start,
        "start [<container-id>] [flags]",
        (f"start {ID}", "start -n databroker", "start --a --i -n shell"),
        flags=(
            NAME,
            Flag("a", kind="bool", about="attach: print the output until the container exits, and exit with its exit code"),
            Flag("i", kind="bool", about="like --a, and forward stdin; Ctrl-P Ctrl-Q detaches from a terminal"),
        ),
        arguments=1,
    ),
    "stop": Command(
        stop,
        "stop [<container-id>] [flags]",
        (f"stop {ID}", "stop -n databroker -f -t 5s", "stop -n databroker -s SIGINT"),
        flags=(
            NAME,
            TIME,
            Flag("force", "f", kind="bool", about="kill all processes of the container if it does not exit in time"),
            Flag("signal", "s", default="SIGTERM", about="signal to send: name or number"),
        ),
        arguments=1,
    ),
    "restart": Command(
        restart,
        "restart [<container-id>] [flags]",
        (f"restart {ID}", "restart -n databroker"),
        flags=(NAME,),
        arguments=1,
    ),
    "pause": Command(
        pause, "pause [<container-id>] [flags]", (f"pause {ID}", "pause -n databroker"), flags=(NAME,), arguments=1
    ),
    "unpause": Command(
        unpause,
        "unpause [<container-id>] [flags]",
        (f"unpause {ID}", "unpause -n databroker"),
        flags=(NAME,),
        arguments=1,
    ),
    "rename": Command(
        rename,
        "rename [<container-id>] <new-name> [flags]",
        (f"rename {ID} databroker", "rename -n databroker databroker-old"),
        flags=(NAME,),
        arguments=2,
    ),
    "remove": Command(
        remove,
        "remove [<container-id>...] [flags]",
        (f"remove {ID}", "remove -f -t 5s -n databroker", "remove -f $(kanto-cm list --quiet)"),
        flags=(NAME, TIME, Flag("force", "f", kind="bool", about="stop a running container first")),
    ),
}  # fmt: skip
