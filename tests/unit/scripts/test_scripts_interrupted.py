# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while an image is being made: each program hands it on to the one that it waits for, which removes what it has made.

An interrupt may come before the program knows that it has started the other one: a busy machine makes that likely.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LIMIT = 20
MAKER = """\
#!/bin/bash
trap 'rm "{mark}"; echo stopped >&2; exit 130' INT
echo $$ > "{mark}.new"
mv "{mark}.new" "{mark}"
while :; do sleep 0.1; done
"""
"""Tidies up when it is interrupted, after the program that it waits for."""
QEMU_RUN = """\
import pathlib, qemu_run
qemu_run.REPOSITORY = pathlib.Path({place!r})
sys.argv = ["qemu-run"]
sys.exit(qemu_run.run())
"""
BOOT_IMAGE = """\
import boot_image
sys.exit(boot_image.main(lambda: boot_image.run([{place!r} + "/scripts/qemu-image"], timeout=60)))
"""
READY = """\
import os, subprocess, sys, threading, time
sys.path[:0] = {paths!r}
def ready():
    while not os.path.exists({mark!r}): time.sleep(0.01)
    print("ready", file=sys.stderr, flush=True)
"""
WAITING = "threading.Thread(target=ready, daemon=True).start()\n"
"""The program waits for the maker already."""
STARTING = """\
class Slow(subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        ready()
        while not os.path.exists({mark!r} + ".sent"): time.sleep(0.01)
subprocess.Popen = Slow
"""
"""The maker runs, and the program has not got its process yet."""


def interrupt(code: str, mark: Path) -> tuple[int, str]:
    """Run Python *code* that starts the maker; interrupt it alone, once that is ready. The exit code, and what was said then."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr
            assert program.stderr.readline() == "ready\n"
            program.send_signal(signal.SIGINT)
            Path(f"{mark}.sent").touch()
            said = program.communicate(timeout=LIMIT)[1]
        finally:
            program.kill()
            if mark.exists():  # the maker was left
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(mark.read_text()), signal.SIGKILL)
    return program.returncode, said


@pytest.mark.parametrize("moment", [WAITING, STARTING], ids=["waiting", "starting"])
@pytest.mark.parametrize("program", [QEMU_RUN, BOOT_IMAGE], ids=["qemu-run", "boot-image"])
def test_interrupt_reaches_the_program_that_makes_the_image(
    tmp_path: Path, program: str, moment: str
) -> None:
    mark = tmp_path / "mark"
    script = tmp_path / "scripts/qemu-image"
    script.parent.mkdir()
    script.write_text(MAKER.format(mark=mark))
    script.chmod(0o755)
    paths = [str(REPOSITORY / name) for name in ("scripts/lib", "tests/vm")]
    code = (READY + moment).format(paths=paths, mark=str(mark)) + program.format(place=str(tmp_path))
    exit_code, said = interrupt(code, mark)
    assert (exit_code, set(said.splitlines())) == (130, {"stopped"})
    assert not mark.exists()
