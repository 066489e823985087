# SPDX-License-Identifier: Apache-2.0
"""The sampler on hosts with cgroup v1, and on hybrid ones."""

from __future__ import annotations

import os

import pytest

from pycm.metrics.sampler import Sampler
from pycm.model import measurements as ids
from support import cgroups
from support.cgroups import Machine
from support.sampling import everything, values

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")  # microseconds
PID = 4711


CONTROLLERS = ("cpu,cpuacct", "memory", "blkio", "pids")
V1_CGROUP = "5:pids:/kanto-cm/c1\n4:memory:/kanto-cm/c1\n3:blkio:/kanto-cm/c1\n2:cpu,cpuacct:/kanto-cm/c1\n"


def v1_container(machine):
    base = "v1/{}/kanto-cm/c1/{}"
    for controller in CONTROLLERS:
        machine.write(base.format(controller, "cgroup.clone_children"), "0\n")
    machine.write(base.format("cpu,cpuacct", "cpuacct.usage"), "5000000000\n")
    machine.write(
        base.format("cpu,cpuacct", "cpu.stat"), "nr_periods 1\nnr_throttled 1\nthrottled_time 1500000000\n"
    )
    machine.write(base.format("memory", "memory.usage_in_bytes"), "50000\n")
    machine.write(base.format("memory", "memory.stat"), "inactive_file 1\ntotal_inactive_file 20000\n")
    machine.write(base.format("memory", "memory.limit_in_bytes"), "100000\n")
    machine.write(
        base.format("memory", "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"
    )
    machine.write(
        base.format("blkio", "blkio.throttle.io_service_bytes_recursive"),
        "8:0 Read 9\n8:0 Write 8\nTotal 17\n",
    )
    machine.write(base.format("pids", "pids.current"), "3\n")


@pytest.fixture
def v1(tmp_path):
    machine = Machine(tmp_path).boot(v1=CONTROLLERS)
    v1_container(machine)
    machine.process(PID, V1_CGROUP)
    return machine


def test_a_v1_container_has_all_standard_measurements(v1):
    sampler = Sampler(v1.proc)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    v1.system_ticks(1100)
    found = values(sampler)
    assert found == {
        ids.CPU_UTILIZATION: 0,
        ids.MEMORY_TOTAL: 100000,
        ids.MEMORY_USED: 30000,
        ids.MEMORY_UTILIZATION: pytest.approx(30),
        ids.IO_READ_BYTES: 9,
        ids.IO_WRITE_BYTES: 8,
        ids.NET_READ_BYTES: 0,
        ids.NET_WRITE_BYTES: 0,
        ids.PIDS: 3,
    }
    assert values(sampler, predicate=set(ids.EXTRA_IDS).__contains__) == {
        ids.CPU_THROTTLED: 1.5,
        ids.MEMORY_OOM_KILLS: 4,
    }
    assert sampler.close("c1") == 4
    sampler.close_all()


def test_a_v1_memory_limit_is_read_again_when_it_changed(v1):
    sampler = Sampler(v1.proc)
    sampler.open("c1", PID)
    v1.write("v1/memory/kanto-cm/c1/memory.limit_in_bytes", "9223372036854771712\n")
    sampler.limits_changed("c1")
    assert values(sampler)[ids.MEMORY_TOTAL] == 1_024_000_000
    sampler.close_all()


def test_a_hybrid_host_gives_pressure_from_v2_and_what_v1_has_from_v1(tmp_path):
    machine = Machine(tmp_path).boot(v2="unified", v1=CONTROLLERS)
    v1_container(machine)
    machine.process(PID, V1_CGROUP + "0::/kanto-cm/c1\n")
    machine.cpu_usage("unified/kanto-cm/c1", 1_000_000)
    machine.write("unified/kanto-cm/c1/cpu.pressure", cgroups.PRESSURE.format("4.50"))
    sampler = Sampler(machine.proc)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    machine.system_ticks(1100)
    machine.write("v1/cpu,cpuacct/kanto-cm/c1/cpuacct.usage", f"{5_000_000_000 + 50 * TICK * 1000}\n")
    found = values(sampler, predicate=everything)
    assert found[ids.CPU_UTILIZATION] == 50
    assert found[ids.CPU_PRESSURE] == 4.5
    assert (found[ids.MEMORY_TOTAL], found[ids.PIDS]) == (100000, 3)
    sampler.close_all()


def test_a_hybrid_host_without_a_v1_controller_uses_that_of_v2(tmp_path):
    machine = Machine(tmp_path).boot(v2="unified", v1=("pids",))
    machine.container("c1", PID, v2="unified")
    machine.write("v1/pids/kanto-cm/c1/cgroup.clone_children", "0\n")
    machine.write("v1/pids/kanto-cm/c1/pids.current", "3\n")
    machine.write(f"proc/{PID}/cgroup", "5:pids:/kanto-cm/c1\n0::/kanto-cm/c1\n")
    sampler = Sampler(machine.proc)
    sampler.open("c1", PID)
    found = values(sampler)
    assert (found[ids.PIDS], found[ids.MEMORY_TOTAL], found[ids.MEMORY_USED]) == (3, 100000, 30000)
    sampler.close_all()


def test_a_v1_controller_without_the_containers_cgroup_is_left_out(v1, caplog):
    (v1.root / "v1/memory/kanto-cm/c1/cgroup.clone_children").unlink()
    sampler = Sampler(v1.proc)
    sampler.open("c1", PID)
    found = values(sampler)
    assert ids.MEMORY_TOTAL not in found
    assert found[ids.PIDS] == 3
    assert caplog.messages == []
    sampler.close_all()
