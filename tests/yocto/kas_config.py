# SPDX-License-Identifier: Apache-2.0
"""Merge kas files and their includes with kas' own code, without fetching repositories, and print the result as JSON.

Arguments: the kas files joined by colons, and NAME=DIRECTORY for each repository that an include names.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jsonschema
from kas.configschema import CONFIGSCHEMA
from kas.context import create_global_context
from kas.includehandler import IncludeHandler


def main() -> None:
    files = [Path(name).absolute() for name in sys.argv[1].split(":")]
    repositories = dict(word.split("=", 1) for word in sys.argv[2:])
    create_global_context(argparse.Namespace(config=files, no_color=True))
    config, missing = IncludeHandler(files, use_lock=True).get_config(repositories)
    if missing:
        sys.exit(f"repositories of includes are not given: {missing}")
    jsonschema.validate(config, CONFIGSCHEMA)
    json.dump(config, sys.stdout)


if __name__ == "__main__":
    main()
