# SPDX-License-Identifier: Apache-2.0
"""Every conformance vector, and those of our own that fill their holes, against the protocol core alone."""

import json
import pathlib
import sys

import pytest

VECTORS = pathlib.Path(__file__).parents[2] / "vectors"
sys.path.insert(0, str(VECTORS))

import vector_core  # noqa: E402
from vector_expected import DEVIATIONS  # noqa: E402

ALL = [
    *json.loads((VECTORS / "mqtt-twin.json").read_text()),
    *json.loads((VECTORS / "mqtt-twin-more.json").read_text()),
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
def test_the_core_passes_the_vector(vector):
    assert vector_core.play(vector) == ""


def test_only_vectors_that_exist_are_expected_to_fail():
    assert set(DEVIATIONS) <= {vector["name"] for vector in ALL}
