# SPDX-License-Identifier: Apache-2.0
"""Decides as opkg does: with libsolv (Debian's python3-solv), and the flags that opkg sets.

Replaces is libsolv's "obsoletes", and counts for whatever provides the name, too. The request comes as JSON on standard input:
    {"installed": [control files], "wanted": {file: control file}, "removed": [names]}
and the answer is {"problems": [texts], "erased": [names], "installed": [files, in order]}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import solv


def fields(control: str) -> dict[str, str]:
    return dict(
        line.split(": ", 1) for line in control.splitlines() if not line.startswith(" ") and ": " in line
    )


def add(pool: Any, repo: Any, control: str) -> Any:
    values = fields(control)
    solvable = repo.add_solvable()
    solvable.name, solvable.evr, solvable.arch = values["Package"], values["Version"], "noarch"
    attributes = {
        "Depends": solv.SOLVABLE_REQUIRES,
        "Provides": solv.SOLVABLE_PROVIDES,
        "Conflicts": solv.SOLVABLE_CONFLICTS,
        "Replaces": solv.SOLVABLE_OBSOLETES,
    }
    for name, key in attributes.items():
        for word in filter(None, values.get(name, "").split(", ")):
            solvable.add_deparray(key, pool.Dep(word.split(" ")[0]))
    solvable.add_deparray(solv.SOLVABLE_PROVIDES, pool.rel2id(solvable.nameid, solvable.evrid, solv.REL_EQ))
    return solvable


def main() -> None:
    request = json.load(sys.stdin)
    pool = solv.Pool()
    pool.setdisttype(solv.Pool.DISTTYPE_DEB)
    pool.set_flag(solv.Pool.POOL_FLAG_OBSOLETEUSESPROVIDES, 1)
    pool.set_flag(solv.Pool.POOL_FLAG_IMPLICITOBSOLETEUSESPROVIDES, 1)
    installed, wanted = pool.add_repo("installed"), pool.add_repo("wanted")
    for control in request["installed"]:
        add(pool, installed, control)
    pool.installed = installed
    files = {add(pool, wanted, control): file for file, control in request["wanted"].items()}
    pool.addfileprovides()
    pool.createwhatprovides()
    solver = pool.Solver()
    solver.set_flag(solv.Solver.SOLVER_FLAG_INSTALL_ALSO_UPDATES, 1)
    jobs = [pool.Job(solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE, solvable.id) for solvable in files]
    jobs += [
        pool.Job(solv.Job.SOLVER_ERASE | solv.Job.SOLVER_SOLVABLE_NAME, pool.str2id(name))
        for name in request["removed"]
    ]
    problems = [str(problem) for problem in solver.solve(jobs)]
    answer: dict[str, list[str]] = {"problems": problems, "erased": [], "installed": []}
    if not problems:
        transaction = solver.transaction()
        transaction.order()
        for step in transaction.steps():
            if step.repo == installed:
                answer["erased"].append(step.name)
            else:
                answer["installed"].append(next(file for known, file in files.items() if known == step))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
