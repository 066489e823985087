# SPDX-License-Identifier: Apache-2.0
"""`pull`: fetch images from their registries; prints the digest of each. On a terminal one line shows how far it is."""

from __future__ import annotations

import sys

from pycm.cli import tables
from pycm.errors import InvalidInputError

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.api.calls import Agent
    from pycm.api.proto.pycm.v1.agent_pb2 import PullImageResponse
    from pycm.cli.line import Line

USAGE = "pull <image>... [flags]"
EXAMPLES = ("pull registry.example/app:1.0", "pull --format json localhost:5000/app@sha256:1d1e32…")
FLAGS = (tables.FORMAT,)
MOST_ARGUMENTS = None
_BEGIN_AND_CLEAR = "\r\x1b[K"


def run(line: Line) -> None:
    as_json = tables.wants_json(line.values["format"])
    if not line.rest:
        raise InvalidInputError("the images to pull are missing")
    for reference in line.rest:
        show(line.agent, reference, as_json=as_json)


def show(agent: Agent, reference: str, *, as_json: bool) -> None:
    for news in followed(agent, reference, live=not as_json and sys.stderr.isatty()):
        if as_json:
            sys.stdout.write(_object(reference, news))
        elif news.image.digest:
            sys.stdout.write(f"{news.image.digest}\n")
        sys.stdout.flush()


def followed(agent: Agent, reference: str, *, live: bool) -> Iterator[PullImageResponse]:
    """The news of a pull. *live*: one line of stderr shows how far it is, and is cleared at the end."""
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
