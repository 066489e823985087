# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/configuration.md are those of the program. Run as a program, this file writes them into the page."""

import re
from pathlib import Path

from pycm.config.render import toml_value
from pycm.config.types import DEPRECATED, Key, keys, plain

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
BEGIN, END = "<!-- keys: generated -->\n", "<!-- end of keys -->\n"
TYPES = {
    "strings": "list of strings",
    "stop_timeout": "duration or seconds",
    "map": "table of strings",
    "registries": "table, see below",
}


def tables() -> str:
    """One table a section, in the order of the declarations."""
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for key in keys():
        if key.path[:-1] != section:
            section = key.path[:-1]
            head = "| key | flag | type | default | meaning |"
            lines += ["", f"### `[{'.'.join(section)}]`", "", head, "|---|---|---|---|---|"]
        lines.append(row(key))
    return "\n".join(lines).lstrip("\n") + "\n"


def row(key: Key) -> str:
    flag = f"`--{key.flag}`" if key.flag else "none"
    shown = "none" if key.kind in ("map", "registries") else f"`{toml_value(plain(key, key.default))}`"
    kind = TYPES.get(key.kind, key.kind)
    return f"| `{key.path[-1]}` | {flag} | {kind} | {shown} | {key.about} |"


def written(page: str) -> str:
    """The page with the tables of the program."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + tables() + END + rest.partition(END)[2]


def test_page_has_the_tables_of_the_program() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert page == written(page), (
        "run `python tests/unit/config/test_config_page.py`, which writes the tables"
    )


def test_page_lists_the_deprecated_keys_with_their_flags() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("### `[things.connection]`")[2].partition("###")[0]
    rows = re.findall(r"^\| `(\w+)` \| `--([\w-]+)` \|$", section, re.MULTILINE)
    assert rows == [(key.path[-1], key.flag) for key in DEPRECATED]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
