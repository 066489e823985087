# SPDX-License-Identifier: Apache-2.0
"""Reads a recipe of this layer with BitBake's own library, runs tasks of it, and prints variables as JSON.

A process of its own: BitBake keeps its state in modules. The request comes as JSON on standard input:
    {"top": build directory, "path": [directories with conf/ and classes/], "recipe": file, "set": {variable: value},
     "appends": [bbappend files], "tasks": [names], "get": [variables]}
The answer has the variables' values, as "WARNINGS" what BitBake warned about, one message a line, and as "unexpanded" all that a task's
signature can be made of: values and flags as written.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import types
from typing import Any


class Collector(logging.Handler):
    """Keep the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING - 1)  # the level of bb.warnonce
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def library() -> Any:
    # the package leaves out hashserv, a server for other purposes that bb.siggen wants to import
    hashserv = types.ModuleType("hashserv")
    hashserv.create_client = None  # type: ignore[attr-defined]
    sys.modules.update({"hashserv": hashserv, "hashserv.client": types.ModuleType("hashserv.client")})
    import bb.build
    import bb.cookerdata
    import bb.data
    import bb.fetch2
    import bb.parse

    return bb


def configuration(bb: Any, request: dict[str, Any]) -> Any:
    d = bb.data.init()
    d.setVar("BBPATH", ":".join(request["path"]))
    d.setVar("TOPDIR", request["top"])
    bb.parse.init_parser(d)
    d = bb.cookerdata.parse_config_file("conf/bitbake.conf", d)
    for file in request.get("include", []):
        d = bb.cookerdata.parse_config_file(file, d)
    for name, value in request["set"].items():
        d.setVar(name, value)
    d.setVar("__bbclasstype", "recipe")
    for name in ("base", *(d.getVar("INHERIT") or "").split()):
        d = bb.cookerdata._inherit(name, d)
    return d


def main() -> None:
    request = json.load(sys.stdin)
    bb = library()
    collector = Collector()
    logging.getLogger("BitBake").addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger("BitBake").addHandler(collector)
    # what tasks print goes to standard error: standard output holds the answer
    answer = os.dup(1)
    os.dup2(2, 1)
    d = configuration(bb, request)
    d.setVar("__BBAPPEND", " ".join(request.get("appends", [])))
    recipe = bb.parse.handle(request["recipe"], d)[""]
    for place in ("T", "WORKDIR", "DL_DIR", "PERSISTENT_DIR"):
        bb.utils.mkdirhier(recipe.getVar(place))
    bb.fetch2.fetcher_init(recipe)
    for task in request["tasks"]:
        for function in [task, *(recipe.getVarFlag(task, "postfuncs") or "").split()]:
            bb.build.exec_func(function, recipe)
    values = {name: recipe.getVar(name) for name in request["get"]}
    names = [name for name in recipe if not name.startswith("_") and name != "BBINCLUDED"]
    unexpanded = {
        name: [
            recipe.getVar(name, False),
            recipe.getVarFlag(name, ":remove", False),
            recipe.getVarFlags(name),
        ]
        for name in sorted(names)
    }
    values["unexpanded"] = json.dumps(unexpanded, default=repr).replace(request["top"], "")
    with os.fdopen(answer, "w") as out:
        values["WARNINGS"] = "\n".join(collector.messages)
        json.dump(values, out)


if __name__ == "__main__":
    main()
