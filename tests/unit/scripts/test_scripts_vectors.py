# SPDX-License-Identifier: Apache-2.0
"""That each conformance case of the container's life is played: as a row of its area's table, or by a test of its name."""

import json
from pathlib import Path

TESTS = Path(__file__).parents[2]
VECTORS = json.loads((TESTS / "vectors" / "runtime.json").read_text())
#: Area -> the test file whose table takes every case of it.
TABLES = {
    "defaults": "unit/model/test_model_rules.py",
    "size": "unit/model/test_model_rules.py",
    "validation": "unit/model/test_model_rules.py",
    "parse": "unit/model/test_model_rules.py",
    "compare": "unit/deployment/test_deployment_plan.py",
    "logs": "unit/logs/test_logs_vectors.py",
    "lifecycle": "integration/test_lifecycle_vectors.py",
    "boot": "integration/test_boot_vectors.py",
}
#: Area -> the directory with one test a case.
NAMED = {"network": "integration", "deployment": "integration"}
#: Case -> why it is not played.
NOT_PLAYED: dict[str, str] = {}


def missing() -> list[str]:
    sources = {
        area: "".join(path.read_text() for path in (TESTS / place).glob("test_*.py"))
        for area, place in NAMED.items()
    }
    found = []
    for vector in VECTORS:
        area, name = vector["area"], vector["name"]
        if area in TABLES and f'"{area}"' not in (TESTS / TABLES[area]).read_text():
            found.append(name)
        if area in NAMED and f"def test_{name.replace('-', '_')}(" not in sources[area]:
            found.append(name)
    return found


def test_every_case_is_played_but_those_that_say_why_not() -> None:
    assert sorted(missing()) == sorted(NOT_PLAYED)
