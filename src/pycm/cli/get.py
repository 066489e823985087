# SPDX-License-Identifier: Apache-2.0
"""`get`: everything about one container, as the JSON that scripts read with jq."""

from __future__ import annotations

import sys

from pycm.cli.choose import chosen
from pycm.cli.line import NAME, Line
from pycm.model import gojson, json_form, wire
from pycm.model.container import Container

USAGE = "get [<container-id>] [flags]"
EXAMPLES = ("get 1d1e3210-cc1b-4355-b3a6-7578ead14dab", "get -n databroker")
FLAGS = (NAME,)
MOST_ARGUMENTS = 1
INDENT = 3


def run(line: Line) -> None:
    container = wire.from_message(Container, chosen(line))
    sys.stdout.write(gojson.dumps(json_form.encode(container), indent=INDENT) + "\n")
