# SPDX-License-Identifier: Apache-2.0
"""Check a board with pycm: boot, agent, containers, metrics, power cut. Prints a table and writes a report in Markdown.

The board is reached by ssh, without a password prompt (a key, or an image that asks for none). A container named
rpi-check is made from --image, which the board pulls if it does not have it, and removed at the end. For the power cut
a person pulls the plug when asked; without a terminal, --power-command names a program that cuts the power and restores
it. What could not be tried is "not done".

Exit codes: 0 nothing failed, 1 something failed, 2 usage error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "rpi-check"
IMAGE = "docker.io/library/busybox:1.36"
UNIT = "pycm.service"
STATE = "/var/lib/container-management"
COMMAND_LIMIT = 300
"""Seconds for one command on the board, a pull included."""
WAIT_LIMIT = 180
"""Seconds within which a condition must hold on the board; an emulated one is slow."""
BOOT_LIMIT = 600
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
CONNECTOR_LIMIT, REPEAT = 3, 5
"""Seconds within which a connector must answer, and between two requests for metrics."""
PASSED, FAILED, NOT_DONE, NOT_RUN = "passed", "FAILED", "not done", "not yet run"


class CheckError(Exception):
    """A check failed; the text says what was seen."""


class NotDoneError(Exception):
    """A check could not be run; the text says why."""


ANSWERED_WRONGLY = (
    CheckError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    subprocess.SubprocessError,
)
"""Exceptions of a check on an unexpected answer. The other checks and the report follow all the same."""


class Board:
    """Commands on the board, each by an ssh connection of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        # of an option that is given twice ssh takes the first
        words = [
            *options.ssh_option,
            "BatchMode=yes",
            "ConnectTimeout=10",
            "StrictHostKeyChecking=accept-new",
        ]
        self.ssh = ["ssh", "-p", str(options.port), *(part for word in words for part in ("-o", word))]

    def run(self, command: str, limit: float = COMMAND_LIMIT) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self.ssh, self.options.board, command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=limit, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise CheckError(f"no answer within {limit:.0f} s: {command}") from error

    def ask(self, command: str) -> str:
        done = self.run(command)
        if done.returncode:
            raise CheckError(
                f"{command}: exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout.strip()

    def until(self, command: str, what: str) -> str:
        """Wait for a command to succeed; returns what it printed."""
        end = time.monotonic() + WAIT_LIMIT
        while (done := self.run(command)).returncode:
            if time.monotonic() > end:
                raise CheckError(
                    f"{what} did not come within {WAIT_LIMIT} s: {done.stderr.strip() or done.stdout.strip()}"
                )
            time.sleep(1)
        return done.stdout.strip()

    @contextlib.contextmanager
    def broker(self) -> Iterator[int]:
        """Yield a port of this machine that is forwarded to the broker on the board's loopback."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        forward = ["-o", "ExitOnForwardFailure=yes", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:1883"]
        with subprocess.Popen([*self.ssh, *forward, self.options.board], stdin=subprocess.DEVNULL) as tunnel:
            try:
                end = time.monotonic() + WAIT_LIMIT
                while publish(port, "pycm/rpi-check", "{}").returncode:
                    if tunnel.poll() is not None or time.monotonic() > end:
                        raise CheckError("the board's MQTT broker cannot be reached at 127.0.0.1:1883")
                    time.sleep(1)
                yield port
            finally:
                tunnel.terminate()


def publish(port: int, topic: str, payload: str) -> subprocess.CompletedProcess[bytes]:
    command = ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", topic, "-m", payload]
    return subprocess.run(command, capture_output=True, check=False)


def expect(ok: object, seen: str) -> str:
    if not ok:
        raise CheckError(seen or "nothing")
    return seen


# ── boot ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def model(board: Board) -> str:
    seen = board.ask("tr -d '\\0' < /proc/device-tree/model")
    return expect(seen.startswith("Raspberry Pi"), seen)


def hierarchy(board: Board) -> str:
    seen = board.ask("grep cgroup /proc/mounts | cut -d' ' -f2,3")
    return expect(seen == "/sys/fs/cgroup cgroup2", seen)


def controllers(board: Board) -> str:
    seen = board.ask("cat /sys/fs/cgroup/cgroup.controllers")
    return expect({"cpu", "io", "memory", "pids"} <= set(seen.split()), seen)


def failed_units(board: Board) -> str:
    seen = board.ask("systemctl --failed --no-legend --plain")
    if seen:
        raise CheckError(seen)
    return "none"


def read_only_root(board: Board) -> str:
    seen = board.ask("awk '$2 == \"/\" {print $3, $4}' /proc/mounts")
    return expect("ro" in seen.split()[-1].split(","), seen)


def data_partition(board: Board) -> str:
    seen = board.ask(f"df -P / {STATE} | tail -n 2 | cut -d' ' -f1").split()
    return expect(len(set(seen)) == 2, " ".join(seen))


# ── agent ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def properties(board: Board) -> dict[str, str]:
    names = "ActiveState,NRestarts,WatchdogUSec,StatusText,MainPID"
    lines = board.ask(f"systemctl show {UNIT} -p {names}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def active(board: Board) -> str:
    found = properties(board)
    seen = f"{found['ActiveState']}, {found['StatusText']}, {found['NRestarts']} restarts"
    return expect(found["ActiveState"] == "active", seen)


def watchdog(board: Board) -> str:
    seen = properties(board)["WatchdogUSec"]
    return expect(seen not in {"0", "infinity", ""}, seen)


def answers(board: Board) -> str:
    return board.ask("pycm sysinfo").replace("\n", "; ")


# ── containers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def create(board: Board) -> str:
    board.run(f"pycm remove -f -n {NAME}")
    script = shlex.quote("while :; do echo alive; sleep 1; done")
    image = shlex.quote(board.options.image)
    board.ask(f"pycm create -n {NAME} --network host --rp always {image} sh -c {script}")
    board.ask(f"pycm start -n {NAME}")
    return running(board)


def running(board: Board) -> str:
    return board.until(f"pycm list -n {NAME} | grep -i running", "a running container")


def output(board: Board) -> str:
    return board.until(f"pycm logs -n {NAME} -t 1 | grep alive", "output")


def killed_agent(board: Board) -> str:
    """Kill the agent: a container must keep running."""
    pid, before = task(board), properties(board)["MainPID"]
    board.ask(f"kill -9 {before}")
    restarted = f"[ $(systemctl show {UNIT} -p MainPID --value) != {before} ] && systemctl is-active {UNIT} && pycm list"
    board.until(restarted, "a new agent")
    return expect(task(board) == pid, f"process {pid} of the container before, {task(board)} after")


def task(board: Board) -> str:
    """Return the container's process."""
    seen = board.until(f"pycm get -n {NAME}", "the container")
    return str(json.loads(seen)["state"]["pid"])


def restart(board: Board) -> str:
    before = task(board)
    board.ask(f"pycm stop -f -t 1s -n {NAME} && pycm start -n {NAME}")
    running(board)
    return expect(task(board) != before, f"process {before} before, {task(board)} after")


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def stats(board: Board) -> str:
    command = f"pycm stats --no-stream --format json {NAME} | grep '\"containers\": \\[{{'"
    return board.until(command, "a sample of the container").replace("\n", " ")


def cloud_metrics(board: Board) -> str:
    """Play the cloud: name the device, request metrics until they arrive, then stop them."""
    with board.broker() as port:
        topics = ("-t", "e/#", "-t", "edge/thing/response")
        command = ["mosquitto_sub", "-p", str(port), "-q", "1", *topics, "-F", "%t %p"]
        heard: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as listener:
            threading.Thread(target=lambda: heard.extend(listener.stdout or ()), daemon=True).start()
            try:
                return follow(port, heard)
            finally:
                listener.terminate()


def follow(port: int, heard: list[str]) -> str:
    publish(port, "edge/thing/request", "{}")
    # a connector on the board answers; without one the checker says who the device is
    answer = first(heard, lambda line: line.startswith("edge/thing/response "), CONNECTOR_LIMIT)
    identity = json.loads(answer.partition(" ")[2] or '{"deviceId": "rpi:check", "tenantId": "rpi"}')
    publish(port, "edge/thing/response", json.dumps(identity))
    end = time.monotonic() + WAIT_LIMIT
    try:
        while time.monotonic() < end:
            request(port, identity["deviceId"], "1s")  # lost until the agent has subscribed
            if line := first(heard, has_metrics, REPEAT):
                return first_values(line)
    finally:
        request(port, identity["deviceId"], "0s")
    raise CheckError(f"no metrics within {WAIT_LIMIT} s, {len(heard)} messages of other kinds")


def first(heard: list[str], wanted: Callable[[str], bool], seconds: float) -> str:
    """Wait for a line; "" if it does not come."""
    end = time.monotonic() + seconds
    while not (found := next(filter(wanted, tuple(heard)), "")) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def has_metrics(line: str) -> bool:
    return "/features/Metrics/outbox/messages/data" in line and '"cpu.' in line


def request(port: int, device: str, frequency: str) -> None:
    envelope = {
        "topic": f"{device.replace(':', '/', 1)}:edge:containers/things/live/messages/request",
        "headers": {"content-type": "application/json", "correlation-id": NAME, "response-required": True},
        "path": "/features/Metrics/inbox/messages/request",
        "value": {"frequency": frequency},
    }
    publish(port, f"command//{device}:edge:containers/req/{NAME}/request", json.dumps(envelope))


def first_values(line: str) -> str:
    snapshot = json.loads(line.partition(" ")[2])["value"]["snapshot"]
    return ", ".join(f"{item['id']} {item['value']}" for item in snapshot[0]["measurements"][:4])


# ── power cut ────────────────────────────────────────────────────────────────────────────────────────────────────────


def boot_id(board: Board) -> str:
    """Empty while the board does not answer, be it refused or only silent."""
    try:
        done = board.run(BOOT_ID, 60)
    except CheckError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def power_cut(board: Board) -> str:
    before = board.ask(BOOT_ID)
    if board.options.power_command:
        subprocess.run(board.options.power_command, shell=True, check=False, timeout=BOOT_LIMIT)
    elif sys.stdin.isatty():
        print(
            "Pull the board's plug, wait five seconds, plug it in again. Then press Enter: ",
            end="",
            flush=True,
        )
        sys.stdin.readline()
    else:
        raise NotDoneError("no terminal to ask on, and no --power-command")
    end = time.monotonic() + BOOT_LIMIT
    while not (now := boot_id(board)):
        if time.monotonic() > end:
            raise CheckError(f"the board did not come back within {BOOT_LIMIT} s")
        time.sleep(1)
    if now == before:
        raise CheckError("the board was not cut off: its boot id is the same")
    return f"up {board.ask('cut -d. -f1 /proc/uptime')} s"


@dataclass(frozen=True)
class Check:
    section: str
    title: str
    run: Callable[[Board], str]


# fmt: off
CHECKS = (
    Check("boot", "the board is a Raspberry Pi", model),
    Check("boot", "cgroup v2 is the only hierarchy", hierarchy),
    Check("boot", "cpu, io, memory and pids controllers are there", controllers),
    Check("boot", "no unit failed", failed_units),
    Check("boot", "the root file system is read-only", read_only_root),
    Check("boot", "the agent's state is on another partition", data_partition),
    Check("agent", "pycm.service is active", active),
    Check("agent", "systemd watches the agent", watchdog),
    Check("agent", "the agent answers", answers),
    Check("containers", "a container is created and runs", create),
    Check("containers", "its output is read", output),
    Check("containers", "it is stopped and started again", restart),
    Check("containers", "it runs on while the agent is killed", killed_agent),
    Check("metrics", "the agent measures the container", stats),
    Check("metrics", "metrics come over MQTT when a cloud asks", cloud_metrics),
    Check("power cut", "the board boots after its power was cut", power_cut),
    Check("power cut", "the container runs again by itself", running),
    Check("power cut", "no unit failed after the cut", failed_units),
)
# fmt: on


@dataclass(frozen=True)
class Outcome:
    check: Check
    result: str
    seen: str


def perform(board: Board) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for check in CHECKS:
        try:
            cut = next((item for item in outcomes if item.check.run is power_cut), None)
            if cut and cut.result != PASSED:
                raise NotDoneError("the power was not cut")
            outcome = Outcome(check, PASSED, check.run(board))
        except NotDoneError as error:
            outcome = Outcome(check, NOT_DONE, str(error))
        except ANSWERED_WRONGLY as error:
            outcome = Outcome(check, FAILED, str(error) or type(error).__name__)
        outcomes.append(outcome)
        print(f"{outcome.result:9} {check.section}: {check.title}: {shorten(outcome.seen)}", flush=True)
    with contextlib.suppress(CheckError):
        board.run(f"pycm remove -f -n {NAME}")
    return outcomes


def shorten(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def facts(board: Board) -> dict[str, str]:
    """What the report says about the board and its software."""
    system = board.ask("cat /etc/os-release")
    name = re.search(r'(?m)^PRETTY_NAME="?([^"\n]*)', system)
    version = re.search(r'(?m)^(?:BUILD_ID|IMAGE_VERSION|VERSION)="?([^"\n]*)', system)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "board": board.run("tr -d '\\0' < /proc/device-tree/model").stdout.strip() or "unknown",
        "image": " ".join(found[1] for found in (name, version) if found) or "unknown",
        "kernel": board.ask("uname -srm"),
        "checked by": f"scripts/rpi-check of {commit() or 'an unknown commit'}",
    }


def commit() -> str:
    """Of this checkout; "" where there is no git, or no checkout."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def report(outcomes: list[Outcome], about: dict[str, str]) -> str:
    lines = ["<!-- SPDX-License-Identifier: Apache-2.0 -->", "# pycm checked on a board", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| | check | outcome | seen |", "|---|---|---|---|"]
    for outcome in outcomes:
        seen = shorten(outcome.seen).replace("|", "\\|")
        lines.append(f"| {outcome.check.section} | {outcome.check.title} | {outcome.result} | {seen} |")
    return "\n".join(lines) + "\n"


def summary(outcomes: list[Outcome]) -> str:
    results = [outcome.result for outcome in outcomes]
    return ", ".join(f"{results.count(result)} {result.lower()}" for result in (PASSED, FAILED, NOT_DONE))


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="scripts/rpi-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("board", nargs="?", help="the board as ssh names it, such as root@192.0.2.7")
    parser.add_argument("--port", type=int, default=22, help="ssh port (22)")
    parser.add_argument("--ssh-option", action="append", default=[], metavar="NAME=VALUE", help="as ssh -o")
    parser.add_argument("--image", default=IMAGE, help=f"image with a shell ({IMAGE})")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="file for the report, by default named after the date"
    )
    parser.add_argument(
        "--power-command", metavar="COMMAND", help="shell command that cuts and restores the power"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the checklist as a report that is not yet run"
    )
    options = parser.parse_args(arguments)
    if not options.list and not options.board:
        parser.error("name the board, such as root@192.0.2.7")
    options.report = options.report or Path(f"rpi-check-{datetime.now(timezone.utc):%Y-%m-%d}.md")
    if not os.access(options.report.parent, os.W_OK) or options.report.is_dir():
        parser.error(f"the report cannot be written to {options.report}")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.list:
        about = {"date": NOT_RUN, "board": NOT_RUN}
        print(report([Outcome(check, NOT_RUN, "") for check in CHECKS], about), end="")
        return 0
    board = Board(options)
    try:
        about = facts(board)
    except CheckError as error:
        print(f"error: {options.board} cannot be checked: {error}", file=sys.stderr)
        return 1
    outcomes = perform(board)
    options.report.write_text(report(outcomes, about), encoding="utf-8")
    print(f"{summary(outcomes)}; the report is {options.report}")
    return int(any(outcome.result == FAILED for outcome in outcomes))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stopped")
