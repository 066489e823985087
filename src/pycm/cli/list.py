# SPDX-License-Identifier: Apache-2.0
"""`list`: the table that sdv-health and others take apart, or the ids alone.

Every cell is padded with blanks to its minimum, then with tabs to the width of the column: that is what Go's tabwriter
made of the original's cells, and scripts split the lines at the bars.
"""

from __future__ import annotations

import sys

from pycm.cli.choose import id_of, name_of, part_of, status_of
from pycm.cli.line import Command
from pycm.errors import InvalidInputError
from pycm.flags import Flag, read_int

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from pycm.cli.line import Line

FLAGS = (
    Flag(
        "filter",
        kind="strings",
        about="only containers with status=<status>, image=<reference>, exitcode=<number>",
    ),
    Flag("name", "n", about="only containers with this name"),
    Flag("quiet", "q", kind="bool", about="print ids only"),
)

#: Title, blanks that a cell is padded to, dashes below the title.
COLUMNS = (
    ("ID", 37, 37),
    ("Name", 37, 37),
    ("Image", 60, 60),
    ("Status", 10, 10),
    ("Finished At", 32, 30),
    ("Exit Code", 10, 10),
)
TAB = 8
#: An exit code that filters nothing, in the original as here.
ANY_EXIT_CODE = -1


def list_containers(line: Line) -> None:
    wanted = _filter(line.values["name"], line.values["filter"])
    containers = [container for container in line.agent.list_containers() if wanted(container)]
    sys.stdout.write(
        ids(containers) if line.values["quiet"] else table(containers, own=line.program == "pycm")
    )


def ids(containers: Iterable[Any]) -> str:
    text = " ".join(id_of(container) for container in containers)
    return text + "\n" if text else ""


def table(containers: Sequence[Any], *, own: bool = False) -> str:
    """Format the table. *own*: as `pycm` does, which marks failed starts; else as Kanto's program does."""
    if not containers:
        return "No containers found.\n"
    rows = [
        tuple(title for title, _, _ in COLUMNS),
        tuple("-" * dashes for _, _, dashes in COLUMNS),
        *(_cells(container, own=own) for container in containers),
    ]
    padded = [[cell.ljust(column[1]) for cell, column in zip(row, COLUMNS, strict=True)] for row in rows]
    widths = [_stop(max(len(row[i]) for row in padded)) for i in range(len(COLUMNS))]
    lines = ("|".join(map(_tabbed, row, widths)) + "|" for row in padded)
    return "\n" + "\n".join(lines) + "\n\n"


def _cells(container: Any, *, own: bool) -> tuple[str, ...]:
    state = part_of(container, "state")
    status, error = status_of(container), state.get("error") or ""
    failed = _failed_start(error) if own and status == "Stopped" and error else ""
    return (
        id_of(container),
        name_of(container),
        image_of(container),
        failed or status,
        str(state.get("finished_at") or ""),
        "-" if failed else str(state.get("exit_code") or 0),
    )


def image_of(container: Any) -> str:
    return str(part_of(container, "image").get("name") or "")


def _failed_start(error: str) -> str:
    from pycm.model.states import NEVER_STARTED, NOT_STARTED  # seldom needed, and slow to import

    if error.endswith(NEVER_STARTED):
        return "Never started"
    return "Not started" if error.endswith(NOT_STARTED) else ""


def _stop(width: int) -> int:
    """The tab stop at or after *width*."""
    return max(-(-width // TAB) * TAB, TAB)


def _tabbed(cell: str, width: int) -> str:
    return cell + "\t" * -(-(width - len(cell)) // TAB)


def _filter(name: str, items: Iterable[str]) -> Callable[[Any], bool]:
    """One predicate of all conditions; of the same key the last one counts. Errors: InvalidInputError."""
    given = dict(_condition(item) for item in items)
    status, image = given.get("status", "").lower(), given.get("image", "").lower()
    exit_code = _exit_code(given["exitcode"]) if "exitcode" in given else ANY_EXIT_CODE

    def wanted(container: Any) -> bool:
        state = part_of(container, "state")
        return (
            (not name or name_of(container) == name)
            and (not status or status_of(container).lower() == status)
            and (not image or image_of(container).lower() == image)
            and exit_code in (ANY_EXIT_CODE, state.get("exit_code") or 0)
        )

    return wanted


def _condition(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    key = key.strip()
    if key not in ("status", "image", "exitcode"):
        raise InvalidInputError(f"no filter: {key}")
    if not equals:
        raise InvalidInputError(f"the filter {key} needs a value: {key}=<value>")
    return key, value.strip()


def _exit_code(text: str) -> int:
    try:
        return read_int(text)
    except InvalidInputError as error:
        raise InvalidInputError(str(error).replace("ParseInt", "Atoi")) from None


COMMANDS = {
    "list": Command(
        list_containers,
        "list [flags]",
        (
            "list",
            "list --filter status=running,exitcode=0",
            "list -q --filter image=ghcr.io/eclipse/kuksa.val/databroker:0.4.1",
        ),
        flags=FLAGS,
        arguments=0,
    )
}
