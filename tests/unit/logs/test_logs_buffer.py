# SPDX-License-Identifier: Apache-2.0
"""How much waits for the log of a container that does not wait for it."""

from __future__ import annotations

import pytest

from pycm.logs import front
from pycm.model.container import LogConfiguration, LogModeConfiguration


@pytest.mark.parametrize(
    ("size", "expected"),
    [("", 1 << 20), ("1k", 64 << 10), ("512k", 512 << 10), ("1000000G", 64 << 20), ("?", 1 << 20)],
)
def test_the_buffer_of_a_container_that_does_not_wait_is_bounded(size: str, expected: int) -> None:
    mode = LogModeConfiguration(mode="non-blocking", max_buffer_size=size)
    assert front._buffer("c1", LogConfiguration(mode_config=mode)) == expected
