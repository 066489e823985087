# SPDX-License-Identifier: Apache-2.0
"""Finding a container's cgroup on v2, v1 and hybrid hosts."""

from __future__ import annotations

import pytest

from pycm.metrics.cgroups import V2, Mount, find_directories, parse_mounts

UNIFIED = "26 25 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def where(mountinfo: str, cgroup: str, container_id: str = "c1") -> dict[str, str]:
    return find_directories(parse_mounts(mountinfo), cgroup, container_id)


def test_a_v2_host_has_one_directory():
    assert where(UNIFIED, "0::/kanto-cm/c1\n") == {V2: "/sys/fs/cgroup/kanto-cm/c1"}


def test_a_v1_controller_is_found_where_it_is_mounted_together_with_another():
    found = where(HYBRID, "5:cpu,cpuacct:/kanto-cm/c1\n4:memory:/kanto-cm/c1\n0::/\n")
    assert found["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct/kanto-cm/c1"
    assert found["memory"] == "/sys/fs/cgroup/memory/kanto-cm/c1"
    assert V2 not in found


def test_a_hybrid_host_gives_both_if_the_v2_cgroup_is_the_containers():
    found = where(HYBRID, "4:memory:/kanto-cm/c1\n0::/kanto-cm/c1\n")
    assert found[V2] == "/sys/fs/cgroup/unified/kanto-cm/c1"


def test_a_v2_cgroup_that_is_containerds_is_not_taken_for_the_containers():
    found = where(HYBRID, "4:memory:/kanto-cm/c1\n0::/system.slice/containerd.service\n")
    assert V2 not in found


@pytest.mark.parametrize("path", ["/", "", "/../elsewhere/c1", "/.."])
def test_the_top_and_what_lies_outside_are_no_containers_cgroup(path):
    assert where(UNIFIED, f"0::{path}\n") == {}


def test_a_systemd_within_the_container_does_not_hide_the_rest_of_it():
    path = "/system.slice/kanto-cm-c1.scope/init.scope"
    assert where(UNIFIED, f"0::{path}\n")[V2] == "/sys/fs/cgroup/system.slice/kanto-cm-c1.scope"


def test_the_part_of_the_hierarchy_that_is_mounted_is_taken_off_the_path():
    mounted = UNIFIED.replace(" / /sys", " /docker/x /sys")
    assert where(mounted, "0::/docker/x/kanto-cm/c1\n")[V2] == "/sys/fs/cgroup/kanto-cm/c1"


def test_blanks_in_mount_points_are_unescaped():
    assert parse_mounts(UNIFIED.replace("/sys/fs/cgroup", "/a\\040b")) == {V2: Mount("/a b", "/")}


def test_the_first_of_several_mounts_counts():
    second = UNIFIED.replace("/sys/fs/cgroup", "/mnt/second")
    assert parse_mounts(UNIFIED + second)[V2] == Mount("/sys/fs/cgroup", "/")


def test_a_cgroup_path_may_hold_a_colon():
    assert where(UNIFIED, "0::/system.slice:kanto-cm:c1\n")[V2] == "/sys/fs/cgroup/system.slice:kanto-cm:c1"


def test_a_line_that_is_not_the_kernels_is_a_value_error():
    with pytest.raises(ValueError, match="unpack"):
        where(UNIFIED, "no colons here\n")
