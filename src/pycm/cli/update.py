# SPDX-License-Identifier: Apache-2.0
"""`update`: change the restart policy and limits of a container; what is not given stays."""

from __future__ import annotations

from pycm.cli.choose import check_choice, find_chosen
from pycm.cli.line import NAME, Command, Line
from pycm.errors import InvalidInputError
from pycm.flags import Flag
from pycm.model.container import Container, HostConfig, Resources, RestartPolicy, UpdateOptions
from pycm.model.frozen import replace
from pycm.model.records import decode
from pycm.model.units import NANOSECONDS
from pycm.model.validation import check_resources, check_restart_policy

FLAGS = (
    NAME,
    Flag("rp", about="restart policy: no, always, unless-stopped, on-failure"),
    Flag("rp-cnt", kind="int", about="on-failure only: at most so many restarts"),
    Flag("rp-to", kind="int64", about="on-failure only: longest wait between restarts, in seconds"),
    Flag("memory", "m", about="memory limit, such as 200M; -1 for none"),
    Flag("memory-reservation", about="soft memory limit; -1 for none"),
    Flag("memory-swap", about="limit of memory and swap together; -1 for none"),
    Flag("cpus", about="CPU time at most, in CPUs, such as 1.5; -1 for no limit"),
    Flag("cpu-shares", kind="int", about="weight of CPU time against others; -1 for 1024"),
    Flag("cpuset-cpus", about="CPUs it may run on, such as 0-2,5; -1 for all"),
    Flag("pids-limit", kind="int", about="processes and threads at most; -1 for no limit"),
)
#: What can be changed: name of the flag -> the flag. A dict keeps the order.
CHANGES = {flag.name: f"--{flag.name}" for flag in FLAGS if flag is not NAME}
LIMITS = ("memory", "memory-reservation", "memory-swap", "cpus", "cpu-shares", "cpuset-cpus", "pids-limit")

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from typing import Any


def update(line: Line) -> None:
    check_choice(line.rest, line.values["name"])
    container = decode(Container, find_chosen(line))
    if not line.given & CHANGES.keys():
        raise InvalidInputError(f"nothing to update: give at least one of {', '.join(CHANGES.values())}")
    host = container.host_config or HostConfig()
    options = UpdateOptions(restart_policy=_policy(line, host), resources=_resources(line, host))
    if options.restart_policy is not None:
        check_restart_policy(options.restart_policy)
    if options.resources is not None:
        # only the agent knows whether the present swap limit is a default that follows the memory limit
        given = line.values["memory-swap"]
        check_resources(options.resources if given else replace(options.resources, memory_swap=""))
    line.agent.update(container.id, options)


def _policy(line: Line, host: HostConfig) -> RestartPolicy | None:
    if not line.given & {"rp", "rp-cnt", "rp-to"}:
        return None
    current = host.restart_policy or RestartPolicy()
    policy = RestartPolicy(type=line.values["rp"] or current.type)
    if policy.type == "on-failure":
        policy = replace(
            policy, maximum_retry_count=current.maximum_retry_count, retry_timeout=current.retry_timeout
        )
    if "rp-cnt" in line.given:
        policy = replace(policy, maximum_retry_count=line.values["rp-cnt"])
    if "rp-to" in line.given:
        policy = replace(policy, retry_timeout=line.values["rp-to"] * NANOSECONDS)
    return policy


def _resources(line: Line, host: HostConfig) -> Resources | None:
    values = line.values
    # an empty text changes nothing, as in the original; a number that is given counts, 0 too
    given = {
        name.replace("-", "_"): values[name] for name in LIMITS if name in line.given and values[name] != ""
    }
    if not given:
        return None
    return replace(host.resources or Resources(), **{name: _lifted(value) for name, value in given.items()})


def _lifted(value: Any) -> Any:
    """Not set, for a limit that shall go."""
    return type(value)() if value in (-1, "-1") else value


COMMANDS = {
    "update": Command(
        update,
        "update [<container-id>] [flags]",
        (
            "update -n databroker --rp on-failure --rp-cnt 5 --rp-to 60",
            "update -n databroker -m 96M",
            "update -n databroker --memory-reservation -1 --cpus 0.5",
        ),
        flags=FLAGS,
        arguments=1,
    )
}
