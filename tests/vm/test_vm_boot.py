# SPDX-License-Identifier: Apache-2.0
"""pycm as it is installed, on a machine that boots systemd: unit, watchdog, power cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from boot_story import Story

pytestmark = pytest.mark.vm


def test_the_unit_becomes_ready_by_itself_and_nothing_has_failed(story: Story) -> None:
    assert story.first.unit["ActiveState"] == "active"
    assert story.first.unit["NRestarts"] == "0"
    assert story.first.failed_units == ""


def test_systemd_says_it_is_started_only_when_the_api_answers(story: Story) -> None:
    log = story.first.log
    assert log.index("API at unix") < log.index("is ready") < log.index("systemd[1]: Started")


def test_a_container_from_a_descriptor_runs(story: Story) -> None:
    assert list(story.first.containers.values()) == ["Running"]
    assert len(story.first.tasks) == 1


def test_metrics_of_the_container_come_over_the_forwarded_port(story: Story) -> None:
    (container,) = story.first.containers
    measurements = story.first.metrics[f"Container:{container}"]
    assert measurements["memory.used"] > 0
    assert measurements["pids"] >= 1
    assert "cpu.utilization" in measurements


def test_systemd_leaves_the_containers_their_cgroup_controllers(story: Story) -> None:
    assert {"cpu", "io", "memory", "pids"} <= set(story.controllers.split())


def test_the_hardening_holds_in_the_running_system(story: Story) -> None:
    found = re.search(r"level for pycm.service: ([\d.]+)", story.exposed)
    assert found is not None, story.exposed
    assert float(found[1]) <= 4.6  # 0.7 of it since the unit hides nothing that containers can get


def test_a_bridge_container_answers_on_its_published_port_with_the_hardened_unit(story: Story) -> None:
    assert story.answer == "hello from the bridge"


def test_the_bridge_network_comes_back_after_a_power_cut(story: Story) -> None:
    assert story.answer_after == "hello from the bridge"


def test_the_watchdog_brings_a_stopped_agent_back(story: Story) -> None:
    after = story.after_watchdog
    assert "Watchdog timeout" in after.log
    assert after.unit["ActiveState"] == "active"
    assert after.unit["NRestarts"] == "1"
    assert after.unit["MainPID"] != story.first.unit["MainPID"]


def test_containers_run_on_while_the_watchdog_ends_the_agent(story: Story) -> None:
    assert story.after_watchdog.tasks == story.first.tasks
    assert story.after_watchdog.containers == story.first.containers


def test_the_keepers_of_the_output_outlive_the_agent(story: Story) -> None:
    assert story.keepers >= 1


def test_the_second_boot_brings_all_containers_back_after_a_power_cut(story: Story) -> None:
    assert list(story.second.containers.values()) == ["Running", "Running"]
    assert set(story.first.containers) < set(story.second.containers)
    assert len(story.second.tasks) == 2
    assert story.second.failed_units == ""


def test_the_power_cut_left_no_damaged_file(story: Story) -> None:
    assert "damaged" not in story.second.log
    assert "level=error" not in story.second.log


def test_metrics_of_all_containers_come_after_the_power_cut(story: Story) -> None:
    for container in story.second.containers:
        assert story.second.metrics[f"Container:{container}"]["memory.used"] > 0


def test_the_agent_stays_far_below_its_memory_limit(story: Story) -> None:
    assert int(story.second.unit["MemoryCurrent"]) < 128 * 1024 * 1024


def test_the_status_line_tells_what_runs(story: Story) -> None:
    assert re.fullmatch(r"pycm \S+: \d+ of \d+ containers run", story.second.unit["StatusText"])


def test_times_of_the_boot_follow_each_other(story: Story) -> None:
    times = story.times
    assert 0 < times.userspace < times.agent < times.log <= times.api < times.container
    assert times.api < times.twin
    assert times.agent < times.finished
    assert times.python_pass > 0


def test_report_shows_times_as_ratios_to_smallest_python_program(story: Story) -> None:
    report = story.report()
    for title, value in story.times.rows().items():
        assert re.search(rf"{title} +{value:.1f} +{value / story.times.python_pass:.1f}\n", report)
