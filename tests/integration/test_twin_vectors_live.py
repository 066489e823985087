# SPDX-License-Identifier: Apache-2.0
"""Every conformance vector against a real mosquitto and the agent's connection, twin and container manager.

Of our own vectors those alone that the core cannot show, as it has no connection: all of them live take four minutes (scripts/vectors).
"""

import json
import pathlib
import sys

import pytest

VECTORS = pathlib.Path(__file__).parents[1] / "vectors"
sys.path.insert(0, str(VECTORS))

import vector_live  # noqa: E402
from vector_expected import DEVIATIONS  # noqa: E402

pytestmark = pytest.mark.integration

#: Seconds for what is missing: one that is to fail need not be waited for long, all others may be on a busy machine.
SHORT_PATIENCE, PATIENCE = 1.0, 60.0


ALL = [
    *json.loads((VECTORS / "mqtt-twin.json").read_text()),
    *(
        vector
        for vector in json.loads((VECTORS / "mqtt-twin-more.json").read_text())
        if vector["send"] is None or "edge" in vector["send"]["topic"]
    ),
]


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(
            vector,
            id=vector["name"],
            marks=[pytest.mark.xfail(reason=DEVIATIONS[vector["name"]], strict=True, raises=AssertionError)]
            if vector["name"] in DEVIATIONS
            else [],
        )
        for vector in ALL
    ],
)
def test_the_agent_passes_the_vector_at_a_real_broker(vector, caplog):
    patience = SHORT_PATIENCE if vector["name"] in DEVIATIONS else PATIENCE
    assert vector_live.play(vector, patience) == ""
    # a vector may hold though half of the agent below it broke down: what escaped is logged with its traceback
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
