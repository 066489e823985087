# SPDX-License-Identifier: Apache-2.0
"""The reference in docs/cli.md against the code. `python tests/unit/cli/test_cli_page.py` writes it anew."""

from collections.abc import Iterator
from pathlib import Path

from pycm.cli import main
from pycm.cli.line import GLOBAL_FLAGS
from pycm.flags import Flag, render_default

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
BEGIN, END = "<!-- generated from the code -->\n", "<!-- end -->\n"


def reference() -> str:
    return "\n".join([*commands(), "### Flags of all commands", "", *flags(GLOBAL_FLAGS), *details()]) + "\n"


def commands() -> Iterator[str]:
    yield from ("| command | what it does | programs |", "|---|---|---|")
    for name, (_, summary) in sorted(main.commands("pycm").items()):
        programs = "`pycm`, `kanto-cm`" if name in main.KANTO_COMMANDS else "`pycm`"
        yield f"| [`{name}`](#{name}) | {summary} | {programs} |"
    yield f"| `{main.DAEMON}` | {main.DAEMON_SUMMARY}; see [configuration.md](configuration.md) | `pycm` |"
    yield ""


def details() -> Iterator[str]:
    for name, (_, summary) in sorted(main.commands("pycm").items()):
        command = main.find_command("pycm", name)
        yield from (f"### {name}", "", f"{summary}: `{command.usage}`", "")
        if command.flags:
            yield from flags(command.flags)


def flags(rows: tuple[Flag, ...]) -> Iterator[str]:
    yield from ("| flag | value | default | meaning |", "|---|---|---|---|")
    for flag in sorted(rows, key=lambda row: row.name):
        title = f"`-{flag.short}`, `--{flag.name}`" if flag.short else f"`--{flag.name}`"
        default = f"`{render_default(flag)}`" if render_default(flag) else ""
        about = flag.about.replace("|", "\\|").replace("<", "&lt;")
        yield f"| {title} | {flag.word} | {default} | {about} |"
    yield ""


def test_page_has_the_reference_of_the_code() -> None:
    _, _, rest = PAGE.read_text().partition(BEGIN)
    assert rest.partition(END)[0] == reference(), f"run: python {Path(__file__).name}"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + reference() + END + rest.partition(END)[2])
