# SPDX-License-Identifier: Apache-2.0
"""`remove`: remove containers; one that fails does not keep the others."""

from __future__ import annotations

from pycm.cli.choose import by_id, by_name, check_choice
from pycm.cli.line import NAME, Line
from pycm.cli.stop import TIME, whole_seconds
from pycm.config.flags import Flag
from pycm.errors import OperationFailedError, PycmError, UnavailableError

USAGE = "remove [<container-id>...] [flags]"
EXAMPLES = (
    "remove 1d1e3210-cc1b-4355-b3a6-7578ead14dab",
    "remove -f -t 5s -n databroker",
    "remove -f $(kanto-cm list --quiet)",
)
FLAGS = (NAME, TIME, Flag("force", "f", kind="bool", about="stop a running container first"))
MOST_ARGUMENTS = None


def run(line: Line) -> None:
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
        raise OperationFailedError(
            f"containers couldn't be removed due to the following reasons: \n\n{listed}"
        )
