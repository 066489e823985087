# SPDX-License-Identifier: Apache-2.0
"""A machine of plain files with cgroup v2, and a sampler that looks at it."""

import pytest

from pycm.metrics.sampler import Sampler
from support.cgroups import Machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path).boot(v2="cgroup")


@pytest.fixture
def sampler(machine):
    sampler = Sampler(machine.proc)
    yield sampler
    sampler.close_all()
