# SPDX-License-Identifier: Apache-2.0
"""The commands for images: `image list|pull|remove|prune` and `pull`."""

from __future__ import annotations

import sys

from pycm.cli import tables
from pycm.cli.line import Command, report
from pycm.errors import InvalidInputError, PycmError
from pycm.flags import quote

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pycm.cli.agent import Agent
    from pycm.cli.line import Line

TITLES = ("IMAGE", "DIGEST", "SIZE", "CREATED", "CONTAINERS")
USAGE = "image list|pull|remove|prune [<image>...] [flags]"
_BEGIN_AND_CLEAR = "\r\x1b[K"


def image(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    actions = {"list": _list, "pull": _pull, "remove": _remove, "prune": _prune}
    word, *rest = line.rest or [""]
    if not word:
        raise InvalidInputError(f"image needs an action: {', '.join(actions)}")
    if word not in actions:
        raise InvalidInputError(f"image has the actions {', '.join(actions)}, got {quote(word)}")
    actions[word](line, rest, as_json)


def _list(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001  one form for all four
    _without_images("list", rest)
    images = line.agent.images()
    if as_json:
        sys.stdout.write(tables.json_list(images))
        return
    rows = [_row(image) for image in images]
    width = 0 if line.values["no-trunc"] else tables.columns()
    sys.stdout.write(tables.table(TITLES, rows, width=width, right="LLRLR"))


def _row(image: Any) -> list[str]:
    created, users = image["created"][:19] + "Z", len(image["container_ids"])
    return [image["reference"], image["digest"][:19], tables.size(image["size_bytes"]), created, str(users)]


def _pull(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001
    for reference in _images("pull", rest):
        show(line.agent, reference, as_json=as_json)


def _remove(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001, ARG001
    """Continue after a failure, as `remove` does; the first error is the exit code."""
    first: PycmError | None = None
    for reference in _images("remove", rest):
        try:
            line.agent.remove_image(reference)
        except PycmError as error:
            if first is not None:
                report(error)
            first = first or error
    if first is not None:
        raise first


def _prune(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001
    _without_images("prune", rest)
    references = line.agent.prune_images()
    if as_json:
        sys.stdout.write(tables.json_list(references))
    else:
        sys.stdout.write("".join(f"{reference}\n" for reference in references))


def _images(action: str, rest: list[str]) -> list[str]:
    if not rest:
        raise InvalidInputError(f"name at least one image to {action}")
    return rest


def _without_images(action: str, rest: list[str]) -> None:
    if rest:
        raise InvalidInputError(f"image {action} accepts no arguments, got {quote(rest[0])}")


# ── pull ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pull(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    for reference in _images("pull", line.rest):
        show(line.agent, reference, as_json=as_json)


def show(agent: Agent, reference: str, *, as_json: bool) -> None:
    """Pull one image and print its digest, or each progress message as JSON."""
    for news in follow(agent, reference, live=not as_json and sys.stderr.isatty()):
        if as_json:
            sys.stdout.write(_object(reference, news))
        elif digest := _digest(news):
            sys.stdout.write(f"{digest}\n")
        sys.stdout.flush()


def follow(agent: Agent, reference: str, *, live: bool) -> Iterator[Any]:
    """Yield the progress of a pull. *live*: one line of stderr shows it, and is cleared at the end."""
    try:
        for news in agent.pull_image(reference):
            if live:
                sys.stderr.write(_BEGIN_AND_CLEAR + ("" if _digest(news) else _progress(reference, news)))
                sys.stderr.flush()
            yield news
    except BaseException:
        if live:
            sys.stderr.write("\n")
        raise


def _object(reference: str, news: Any) -> str:
    value = {"reference": reference, **{name: news[name] for name in ("step", "done", "total")}}
    if digest := _digest(news):
        value["digest"] = digest
    return tables.json_line(value)


def _digest(news: Any) -> str:
    """Return the digest of a pulled image; "" before the end."""
    return str((news.get("image") or {}).get("digest") or "")


def _progress(reference: str, news: Any) -> str:
    text, done, total = news["step"], news["done"], news["total"]
    if text == "downloading" and total:
        text += f" {done * 100 // total} % of {tables.size(total)}"
    elif text == "unpacking" and total:
        text += f" {done} of {total} layers"
    width = tables.columns_of(sys.stderr)
    line = f"{reference}: {text}"
    return line[-(width - 1) :] if width else line


COMMANDS = {
    "image": Command(
        image,
        USAGE,
        (
            "image list --format json",
            "image pull registry.example/app:1.0",
            "image remove registry.example/app:1.0",
            "image prune",
        ),
        flags=(tables.FORMAT, tables.NO_TRUNC),
    ),
    "pull": Command(
        pull,
        "pull <image>... [flags]",
        ("pull registry.example/app:1.0", "pull --format json localhost:5000/app@sha256:1d1e32…"),
        flags=(tables.FORMAT,),
    ),
}
