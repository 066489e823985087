# SPDX-License-Identifier: Apache-2.0
"""Stands for the release's python3-native: this interpreter, but `-m installer` as openembedded-core patches it.

OE's installer takes --interpreter and places files for the target's Python; the place comes in PYTHON_SITEPACKAGES_DIR.
"""

from __future__ import annotations

import argparse
import os
import sys


def install_wheel(arguments: list[str]) -> None:
    import installer.scripts
    from installer import install
    from installer.destinations import SchemeDictionaryDestination
    from installer.sources import WheelFile

    # OE takes "/usr/bin/env python3" as it is: a space separates an argument
    installer.scripts._is_executable_simple = lambda _executable: True
    parser = argparse.ArgumentParser()
    parser.add_argument("--compile-bytecode", default="0")
    parser.add_argument("--interpreter", required=True)
    parser.add_argument("--destdir", required=True)
    parser.add_argument("--prefix", default="/usr")
    parser.add_argument("wheel")
    given = parser.parse_args(arguments)
    site = os.environ["PYTHON_SITEPACKAGES_DIR"]
    places = {
        "purelib": site,
        "platlib": site,
        "scripts": "/usr/bin",
        "data": "/usr",
        "headers": "/usr/include",
    }
    destination = SchemeDictionaryDestination(
        {key: given.destdir + place for key, place in places.items()},
        interpreter=given.interpreter,
        script_kind="posix",
    )
    with WheelFile.open(given.wheel) as wheel:
        install(source=wheel, destination=destination, additional_metadata={"INSTALLER": b"installer"})


if sys.argv[1:3] == ["-m", "installer"]:
    install_wheel(sys.argv[3:])
else:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
