# SPDX-License-Identifier: Apache-2.0
"""scripts/rpi-check against an ssh of its own: a program that answers each command from a table. tests/vm boots a real guest."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "scripts/rpi-check"
DATA = {"value": {"snapshot": [{"measurements": [{"id": "cpu.utilization", "value": 1.5}]}]}}
ANSWERS = {
    "device-tree/model": "Raspberry Pi 4 Model B Rev 1.4",
    "os-release": 'PRETTY_NAME="Eclipse Leda"\nVERSION="0.1 (x|y)"\n',
    "uname": "Linux 5.15.92-v8 aarch64",
    "grep cgroup /proc/mounts": "/sys/fs/cgroup cgroup2",
    "cgroup.controllers": "cpuset cpu io memory pids",
    "--failed": "",
    "/proc/mounts": "ext4 ro,relatime",
    "df -P": "/dev/mmcblk0p4\n/dev/mmcblk0p6",
    "systemctl show pycm.service -p ActiveState": "ActiveState=active\nNRestarts=0\nWatchdogUSec=30s\nStatusText=pycm: 1 of 1\nMainPID=17",
    "pycm get": '{"state": {"pid": 23}}',
    "uptime": "31",
}
STUBS = {
    "ssh": """\
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
if "-N" in sys.argv:
    time.sleep(600)
command = sys.argv[-1]
with (here / "commands").open("a") as log:
    print(" ".join(sys.argv[1:]), file=log)
if (here / "away").exists():
    sys.exit("ssh: connect to host board port 22: No route to host")
if "boot_id" in command:
    print("second" if (here / "cut").exists() else "first")
for part, answer in json.loads((here / "answers").read_text()).items():
    if part in command:
        # the container's process is another one after it was stopped
        started = (here / "commands").read_text().count("pycm stop")
        print(answer.replace("23", "24") if started and "pycm get" in command else answer)
        sys.exit(int(answer == "fails"))
""",
    "mosquitto_pub": """\
import pathlib, sys
with (pathlib.Path(__file__).parent / "published").open("a") as log:
    print(sys.argv[-3], sys.argv[-1], file=log)
""",
    "mosquitto_sub": f"""\
import sys, time
sys.stdout.buffer.write(b"e/t/other \\xff\\n")
print('edge/thing/response {{"deviceId": "acme:car"}}', flush=True)
print('e/t/acme:car {{"path": "/features/Metrics/outbox/messages/data", {json.dumps(DATA)[1:]}', flush=True)
time.sleep(600)
""",
}


class Bench:
    """Programs to find first, and what they were called with."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.report = place / "report.md"
        for name, text in STUBS.items():
            (place / name).write_text(f"#!{sys.executable}\n{text}")
            (place / name).chmod(0o755)
        self.answer({})

    def answer(self, changed: dict[str, str]) -> None:
        (self.place / "answers").write_text(json.dumps({**ANSWERS, **changed}))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, "root@board", "--report", self.report, *words], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=False, env={**os.environ, "PATH": f"{self.place}:{os.environ['PATH']}"},
        )  # fmt: skip

    def results(self) -> dict[str, str]:
        rows = re.findall(r"(?m)^\| [\w ]+ \| (.*?) \| (.*?) \|", self.report.read_text())
        return {title: result for title, result in rows if title != "check"}

    def commands(self) -> list[str]:
        return (self.place / "commands").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def rpi_check(scripts_lib: None) -> Any:
    import rpi_check

    return rpi_check


def test_rpi_check_passes_a_board_that_does_all(bench: Bench, rpi_check: Any) -> None:
    done = bench.run("--power-command", f"touch {bench.place}/cut", "--port", "2222", "--image", "an image")
    assert done.returncode == 0, done.stdout + done.stderr
    assert bench.results() == {check.title: "passed" for check in rpi_check.CHECKS}
    text = bench.report.read_text()
    assert (
        "- board: Raspberry Pi 4 Model B Rev 1.4\n- image: Eclipse Leda 0.1 (x|y)\n- kernel: Linux 5.15"
        in text
    )
    assert re.search(r"(?m)^- date: \d{4}-\d\d-\d\d \d\d:\d\d UTC$", text)
    assert "cpu.utilization 1.5" in text
    assert (
        f"{len(rpi_check.CHECKS)} passed, 0 failed, 0 not done; the report is {bench.report}" in done.stdout
    )
    commands = bench.commands()
    assert all("-p 2222 " in command and "BatchMode=yes" in command for command in commands)
    assert any("--network host --rp always 'an image' sh -c" in command for command in commands)
    assert commands[-1].endswith("pycm remove -f -n rpi-check")


def test_rpi_check_ends_the_metrics_that_it_asked_for(bench: Bench) -> None:
    bench.run()
    published = (bench.place / "published").read_text().splitlines()
    requests = [line for line in published if line.startswith("command//acme:car:edge:containers/req/")]
    assert '"frequency": "1s"' in requests[0]
    assert '"frequency": "0s"' in requests[-1]


def test_rpi_check_goes_on_after_a_failure_and_ends_with_1(bench: Bench) -> None:
    bench.answer({"cgroup.controllers": "cpuset cpu io pids", "pycm sysinfo": "fails"})
    done = bench.run("--power-command", f"touch {bench.place}/cut")
    assert done.returncode == 1
    results = bench.results()
    assert [title for title, result in results.items() if result == "FAILED"] == [
        "cpu, io, memory and pids controllers are there", "the agent answers"
    ]  # fmt: skip
    assert "| FAILED | cpuset cpu io pids |" in bench.report.read_text()
    assert "pycm sysinfo: exit code 1: fails" in bench.report.read_text()


def test_rpi_check_asks_for_a_sample_that_is_not_empty(rpi_check: Any) -> None:
    class Board:
        def until(self, command: str, _what: str) -> str:
            self.filter = command.partition(" | ")[2]
            return ""

    board = Board()
    rpi_check.stats(board)
    empty, sample = ('{"time": "x", "containers": []}', '{"time": "x", "containers": [{"id": "y"}]}')
    codes = [
        subprocess.run(board.filter, shell=True, input=text, text=True, check=False).returncode
        for text in (empty, sample)
    ]
    assert codes == [1, 0]


def test_rpi_check_says_what_was_not_done_without_a_terminal(bench: Bench) -> None:
    done = bench.run()
    assert done.returncode == 0
    assert [title for title, result in bench.results().items() if result == "not done"] == [
        "the board boots after its power was cut", "the container runs again by itself", "no unit failed after the cut"
    ]  # fmt: skip


def test_rpi_check_notices_that_the_power_was_not_cut(bench: Bench) -> None:
    done = bench.run("--power-command", "true")
    assert done.returncode == 1
    assert bench.results()["the board boots after its power was cut"] == "FAILED"
    assert bench.results()["the container runs again by itself"] == "not done"
    assert "its boot id is the same" in done.stdout


@pytest.mark.parametrize("answer", ["", "null", "[]", "x", '{"state": null}', '{"state": []}'])
def test_rpi_check_reports_answers_of_another_form(bench: Bench, answer: str) -> None:
    bench.answer({"pycm get": answer, "systemctl show pycm.service -p ActiveState": answer, "df -P": answer})
    done = bench.run()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    results = bench.results()
    assert {results[title] for title in ("it is stopped and started again", "pycm.service is active")} == {
        "FAILED"
    }
    assert results["metrics come over MQTT when a cloud asks"] == "passed"


@pytest.mark.parametrize("error", [TypeError, AttributeError, subprocess.TimeoutExpired])
def test_rpi_check_goes_on_after_any_answer(
    rpi_check: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def wrong(_board: Any) -> str:
        raise subprocess.TimeoutExpired("x", 1) if error is subprocess.TimeoutExpired else error("x")

    class Board:
        def run(self, _command: str) -> None:
            raise rpi_check.CheckError("no answer to the removal")

    checks = (rpi_check.Check("a", "b", wrong), rpi_check.Check("a", "c", lambda _: "seen"))
    monkeypatch.setattr(rpi_check, "CHECKS", checks)
    assert [outcome.result for outcome in rpi_check.perform(Board())] == ["FAILED", "passed"]


def test_rpi_check_waits_for_a_board_that_is_silent_at_first(
    rpi_check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpi_check.time, "sleep", lambda _: None)
    answers = iter(["first", None, "", "second"])

    class Board:
        options = argparse.Namespace(power_command="true")

        def ask(self, command: str) -> str:
            return "31" if "uptime" in command else str(next(answers))

        def run(self, _command: str, _limit: float) -> subprocess.CompletedProcess[str]:
            answer = next(answers)
            if answer is None:
                raise rpi_check.CheckError("no answer within 60 s")
            return subprocess.CompletedProcess([], int(not answer), answer, "")

    assert rpi_check.power_cut(Board()) == "up 31 s"


@pytest.mark.parametrize("place", ["nowhere/report.md", "."])
def test_rpi_check_refuses_a_report_that_it_cannot_write_before_it_begins(bench: Bench, place: str) -> None:
    done = bench.run("--report", str(bench.place / place))
    assert done.returncode == 2
    assert done.stderr.startswith("error: the report cannot be written to ")
    assert not (bench.place / "commands").exists()


def test_rpi_check_needs_no_git(rpi_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert rpi_check.commit() == ""


def test_rpi_check_writes_no_report_of_a_board_that_does_not_answer(bench: Bench) -> None:
    (bench.place / "away").touch()
    done = bench.run()
    assert done.returncode == 1
    assert done.stderr.startswith("error: root@board cannot be checked: ")
    assert "No route to host" in done.stderr
    assert not bench.report.exists()


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--what"], ["a", "--port", "x"]])
def test_rpi_check_says_a_usage_error_in_one_line(words: list[str]) -> None:
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_rpi_check_result_page_has_every_check(rpi_check: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert rpi_check.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| not yet run |") == len(rpi_check.CHECKS)
    page = (REPOSITORY / "docs/raspberry-pi-result.md").read_text()
    assert page == printed or "- date: 20" in page, "nobody ran it: scripts/rpi-check --list writes the page"
    assert all(f"| {check.section} | {check.title} |" in page for check in rpi_check.CHECKS)
