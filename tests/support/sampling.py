# SPDX-License-Identifier: Apache-2.0
"""What tests of the sampler share: one sample as a dict, the descriptors that are kept, a machine of plain files."""

from __future__ import annotations

import os


def values(sampler, container_id="c1", predicate=None):
    """One sweep over one container, as a dict in the order of output."""
    found = sampler.sample({container_id: predicate})
    return {item.id: item.value for one in found for item in one.measurements}


def kept(machine):
    """The files of *machine* that this process has open."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    names = (os.readlink(link) for link in links if os.path.islink(link))
    return {name for name in names if name.startswith(f"{machine.root}/")}


def everything(_: str) -> bool:
    return True
