# SPDX-License-Identifier: Apache-2.0
"""`rename`: give a container another name; its id and its data stay."""

from __future__ import annotations

from pycm.cli.choose import by_id, by_name, check_choice
from pycm.cli.line import NAME, Line
from pycm.errors import InvalidInputError
from pycm.model.validation import check_name

USAGE = "rename [<container-id>] <new-name> [flags]"
EXAMPLES = ("rename 1d1e3210-cc1b-4355-b3a6-7578ead14dab databroker", "rename -n databroker databroker-old")
FLAGS = (NAME,)
MOST_ARGUMENTS = 2


def run(line: Line) -> None:
    if not line.rest:
        raise InvalidInputError("accepts 1 or 2 arg(s), received 0")
    *ids, new_name = line.rest
    name = line.values["name"]
    check_choice(ids, name)
    check_name(new_name)
    container = by_name(line.agent, name) if name else by_id(line.agent, ids[0])
    if container.name == new_name:
        raise InvalidInputError(f"the new name = {new_name} shouldn't be the same")
    line.agent.rename(container.id, new_name)
