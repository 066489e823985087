# SPDX-License-Identifier: Apache-2.0
"""`image`: list, pull and remove images."""

from __future__ import annotations

import sys

from pycm.cli import pull, tables
from pycm.config.flags import quote
from pycm.errors import InvalidInputError, PycmError

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from pycm.api.proto.pycm.v1.agent_pb2 import Image
    from pycm.cli.line import Line

USAGE = "image list|pull|remove|prune [<image>...] [flags]"
EXAMPLES = (
    "image list --format json",
    "image pull registry.example/app:1.0",
    "image remove registry.example/app:1.0",
    "image prune",
)
FLAGS = (tables.FORMAT, tables.NO_TRUNC)
MOST_ARGUMENTS = None

TITLES = ("IMAGE", "DIGEST", "SIZE", "CREATED", "CONTAINERS")


def run(line: Line) -> None:
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
        pull.show(line.agent, reference, as_json=as_json)


def _remove(line: Line, rest: list[str], as_json: bool) -> None:  # noqa: FBT001, ARG001
    """Goes on after one that fails, as `remove` does; the first error is the exit code."""
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
