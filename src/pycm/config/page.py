# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/configuration.md, printed by `python -m pycm.config.page`; a test keeps the page in step."""

from __future__ import annotations

import sys

from pycm.config.keys import Key, keys, plain
from pycm.config.render import toml_value

_TYPES = {
    "strings": "list of strings",
    "stop_timeout": "duration or seconds",
    "map": "table of strings",
    "registries": "table, see below",
}


def render_page() -> str:
    """One table a section, in the order of the declarations."""
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for key in keys():
        if key.path[:-1] != section:
            section = key.path[:-1]
            lines += [
                "",
                f"### `[{'.'.join(section)}]`",
                "",
                "| key | flag | type | default | meaning |",
                "|---|---|---|---|---|",
            ]
        lines.append(_row(key))
    return "\n".join(lines).lstrip("\n") + "\n"


def _row(key: Key) -> str:
    option = key.option
    flag = f"`--{option.flag}`" if option.flag else "none"
    shown = "none" if option.kind in ("map", "registries") else f"`{toml_value(plain(option, key.default))}`"
    kind = _TYPES.get(option.kind, option.kind)
    return f"| `{key.path[-1]}` | {flag} | {kind} | {shown} | {option.about} |"


if __name__ == "__main__":
    sys.stdout.write(render_page())
