# SPDX-License-Identifier: Apache-2.0
"""The commands for images: `image list|pull|remove|prune` and `pull`."""

from __future__ import annotations

import sys

from pycm.cli import tables
from pycm.cli.line import Command
from pycm.errors import InvalidInputError, PycmError
from pycm.flags import quote

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.api.calls import Agent
    from pycm.api.proto.pycm.v1.agent_pb2 import Image, PullImageResponse
    from pycm.cli.line import Line

TITLES = ("IMAGE", "DIGEST", "SIZE", "CREATED", "CONTAINERS")
USAGE = "image list|pull|remove|prune [<image>...] [flags]"
_BEGIN_AND_CLEAR = "\r\x1b[K"


def image(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    actions = {"list": _list, "pull": _pull, "remove": _remove, "prune": _prune}
    word, *rest = line.rest or [""]
    if not word:
        raise InvalidInputError(f"image: what to do is missing: {USAGE}")
    if word not in actions:
        raise InvalidInputError(f"image: {quote(word)} is none of {', '.join(actions)}")
    actions[word](line, rest, as_json)


def _list(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001  one form for all four
    _without_images("list", rest)
    images = line.agent.own.images()
    if as_json:
        sys.stdout.write(tables.json_list([as_object(image) for image in images]))
        return
    rows = [
        [image.reference, image.digest[:19], tables.size(image.size_bytes), image.created[:19] + "Z", str(len(image.container_ids))]
        for image in images
    ]  # fmt: skip
    width = 0 if line.values["no-trunc"] else tables.columns()
    sys.stdout.write(tables.table(TITLES, rows, width=width, right="LLRLR"))


def as_object(image: Image) -> dict[str, object]:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "created": image.created,
        "container_ids": list(image.container_ids),
    }


def _pull(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001
    for reference in _images("pull", rest):
        show(line.agent, reference, as_json=as_json)


def _remove(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001, ARG001
    """Continue after a failure, as `remove` does; the first error is the exit code."""
    first: PycmError | None = None
    for reference in _images("remove", rest):
        try:
            line.agent.own.remove_image(reference)
        except PycmError as error:
            if first is not None:
                sys.stderr.write(f"Error: {error}\n")
            first = first or error
    if first is not None:
        raise first


def _prune(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001
    _without_images("prune", rest)
    references = line.agent.own.prune_images()
    if as_json:
        sys.stdout.write(tables.json_list(references))
    else:
        sys.stdout.write("".join(f"{reference}\n" for reference in references))


def _images(action: str, rest: list[str]) -> list[str]:
    if not rest:
        raise InvalidInputError(f"the images to {action} are missing")
    return rest


def _without_images(action: str, rest: list[str]) -> None:
    if rest:
        raise InvalidInputError(f"image {action} takes no image, {quote(rest[0])} is given")


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
        elif news.image.digest:
            sys.stdout.write(f"{news.image.digest}\n")
        sys.stdout.flush()


def follow(agent: Agent, reference: str, *, live: bool) -> Iterator[PullImageResponse]:
    """Yield the progress of a pull. *live*: one line of stderr shows it, and is cleared at the end."""
    try:
        for news in agent.own.pull_image(reference):
            if live:
                sys.stderr.write(
                    _BEGIN_AND_CLEAR + (_progress(reference, news) if not news.image.digest else "")
                )
                sys.stderr.flush()
            yield news
    except BaseException:
        if live:
            sys.stderr.write("\n")
        raise


def _object(reference: str, news: PullImageResponse) -> str:
    value = {"reference": reference, "step": news.step, "done": news.done, "total": news.total}
    if news.image.digest:
        value["digest"] = news.image.digest
    return tables.json_line(value)


def _progress(reference: str, news: PullImageResponse) -> str:
    text = news.step
    if news.step == "downloading" and news.total:
        share = news.done * 100 // news.total
        text += f" {share} % of {tables.size(news.total)}"
    elif news.step == "unpacking" and news.total:
        text += f" {news.done} of {news.total} layers"
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
