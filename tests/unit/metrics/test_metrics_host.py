# SPDX-License-Identifier: Apache-2.0
"""Figures of the machine and of processes, held against what the kernel says of this one."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from pycm.metrics.host import LOOK_AGAIN, Host
from pycm.metrics.sampler import Sampler
from pycm.model.measurements import PROCESS_IDS, SYSTEM, SYSTEM_IDS


def figures(host, originator, ids):
    found = host.sample({originator: frozenset(ids)}, "r")
    return [(one.id, one.value) for one in found[0].measurements] if found else []


def test_the_machine_has_all_figures_in_order_once_there_is_a_baseline():
    host = Host()
    assert [name for name, _ in figures(host, SYSTEM, SYSTEM_IDS)] == list(SYSTEM_IDS[1:])
    deadline = time.monotonic() + 60
    while len(found := figures(host, SYSTEM, SYSTEM_IDS)) < len(SYSTEM_IDS):
        assert time.monotonic() < deadline  # the kernel counts in ticks
    assert [name for name, _ in found] == list(SYSTEM_IDS)
    values = dict(found)
    assert 0 <= values["cpu.utilization"] <= 100
    assert values["memory.total"] == psutil.virtual_memory().total
    assert 0 < values["memory.used"] < values["memory.total"]
    assert values["memory.utilization"] == 100 * values["memory.used"] / values["memory.total"]


def test_readers_do_not_disturb_each_other(monkeypatch):
    times = iter([(0.0, 0.0), (10.0, 100.0), (10.0, 100.0), (30.0, 200.0)])
    monkeypatch.setattr("pycm.metrics.host._cpu_times", lambda: next(times))
    host = Host()
    host.baseline("a")
    host.baseline("b")
    wanted = {SYSTEM: frozenset({"cpu.utilization"})}
    assert host.sample(wanted, "b") == []  # no time has passed for it
    assert host.sample(wanted, "a")[0].measurements[0].value == 15


@pytest.fixture
def named(tmp_path):
    """A process with a name of its own, longer than what the kernel keeps."""
    program = tmp_path / "pycm-test-with-a-long-name"
    os.symlink(sys.executable, program)
    process = subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield program.name, process
        process.kill()


def test_a_process_is_found_by_its_name_and_left_out_once_it_has_ended(named):
    name, process = named
    now = [0.0]
    host = Host(clock=lambda: now[0])
    deadline = time.monotonic() + 60
    while not (found := figures(host, name, PROCESS_IDS)):
        assert time.monotonic() < deadline  # the fork has not become the program yet
        now[0] += LOOK_AGAIN
    assert [figure for figure, _ in found] == list(PROCESS_IDS)
    assert dict(found)["memory.utilization"] > 0
    process.kill()
    process.wait()
    assert figures(host, name, PROCESS_IDS) == []


def test_a_name_that_nobody_has_is_not_looked_for_each_time(tmp_path):
    now = [0.0]
    host = Host(str(tmp_path), clock=lambda: now[0])
    assert figures(host, "nobody", PROCESS_IDS) == []
    comm = tmp_path / str(os.getpid())
    comm.mkdir()
    name = psutil.Process().name()
    (comm / "comm").write_text(name[:15] + "\n")
    assert figures(host, name, PROCESS_IDS)
    host = Host(str(tmp_path / "none"), clock=lambda: now[0])
    os.makedirs(tmp_path / "none")
    assert figures(host, name, PROCESS_IDS) == []
    os.rename(comm, tmp_path / "none" / comm.name)
    assert figures(host, name, PROCESS_IDS) == []
    now[0] = LOOK_AGAIN
    assert figures(host, name, PROCESS_IDS)


def test_psutil_is_imported_by_the_first_who_asks_for_the_machine():
    code = (
        "import sys; from pycm.metrics.sampler import Sampler; s = Sampler(); s.sample({}); s.baseline([]);"
        "assert 'psutil' not in sys.modules; s.host_baseline('r'); assert 'psutil' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Sampler().host({SYSTEM: frozenset({"cpu.load1"})}, "r")[0].originator == SYSTEM


def test_without_psutil_only_the_figures_of_the_machine_are_missing(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "pycm.metrics.host")
    monkeypatch.setitem(sys.modules, "psutil", None)
    sampler = Sampler()
    sampler.host_baseline("r")
    assert sampler.host({SYSTEM: frozenset({"cpu.load1"})}, "r") == ()
    assert sampler.sample({}) == []
    assert [record.message for record in caplog.records] == [
        "system metrics: unavailable: import of psutil halted; None in sys.modules (install psutil)"
    ]
