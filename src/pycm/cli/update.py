# SPDX-License-Identifier: Apache-2.0
"""`update`: change restart policy and memory limits; what is not given stays."""

from __future__ import annotations

from dataclasses import replace

from pycm.cli.choose import check_choice, chosen
from pycm.cli.line import NAME, Line
from pycm.config.flags import Flag
from pycm.model import wire
from pycm.model.container import NANOSECONDS, Container, HostConfig, Resources, RestartPolicy, UpdateOptions
from pycm.model.validation import check_resources, check_restart_policy

USAGE = "update [<container-id>] [flags]"
EXAMPLES = (
    "update -n databroker --rp on-failure --rp-cnt 5 --rp-to 60",
    "update -n databroker -m 96M",
    "update -n databroker --memory-reservation -1",
)
FLAGS = (
    NAME,
    Flag("rp", about="restart policy: no, always, unless-stopped, on-failure"),
    Flag("rp-cnt", kind="int", about="on-failure only: at most so many restarts"),
    Flag("rp-to", kind="int64", about="on-failure only: longest wait between restarts, in seconds"),
    Flag("memory", "m", about="memory limit, such as 200M; -1 for none"),
    Flag("memory-reservation", about="soft memory limit; -1 for none"),
    Flag("memory-swap", about="limit of memory and swap together; -1 for none"),
)
MOST_ARGUMENTS = 1
UNLIMITED = "-1"


def run(line: Line) -> None:
    check_choice(line.rest, line.values["name"])
    container = wire.from_message(Container, chosen(line))
    host = container.host_config or HostConfig()
    options = UpdateOptions(restart_policy=_policy(line, host), resources=_resources(line, host))
    if options.restart_policy is not None:
        check_restart_policy(options.restart_policy)
    check_resources(options.resources)
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
    given = values["memory"], values["memory-reservation"], values["memory-swap"]
    if not any(given):
        return None
    current = host.resources or Resources()
    return Resources(
        memory=_merged(given[0], current.memory),
        memory_reservation=_merged(given[1], current.memory_reservation),
        memory_swap=_merged(given[2], current.memory_swap),
    )


def _merged(given: str, current: str) -> str:
    return "" if given == UNLIMITED else given or current
