# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while an image is being made: each program hands it on to the one that it waits for, which removes what it has made."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
MAKER = """\
#!/bin/bash
trap 'rm "{mark}"; echo stopped >&2; exit 130' INT
touch "{mark}"
echo ready >&2
while :; do sleep 0.1; done
"""
"""Tidies up when it is interrupted, after the program that it waits for."""


def interrupt(code: str) -> tuple[int, str]:
    """Run Python *code* that starts the maker; interrupt it alone, as soon as that is ready. The exit code, and what was said then."""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr
        assert program.stderr.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        said = program.stderr.read()
        return program.wait(timeout=60), said


def test_qemu_run_lets_the_image_be_removed_and_says_one_line(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = tmp_path / "scripts/qemu-image"
    script.parent.mkdir()
    script.write_text(MAKER.format(mark=mark))
    script.chmod(0o755)
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'scripts/lib')!r}); sys.argv = ['qemu-run']\n"
        f"import qemu_run, pathlib; qemu_run.REPOSITORY = pathlib.Path({str(tmp_path)!r})\n"
        "sys.exit(qemu_run.run())"
    )
    assert interrupt(code) == (130, "stopped\n")
    assert not mark.exists()


def test_what_makes_the_image_waits_for_its_programs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = tmp_path / "program"
    script.write_text(MAKER.format(mark=mark).replace(">&2", f">{tmp_path}/said"))
    script.chmod(0o755)
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests/vm')!r})\n"
        "import boot_image, pathlib, threading, time\n"
        "def tell():\n"
        f"    while not pathlib.Path({str(mark)!r}).exists(): time.sleep(0.01)\n"
        "    print('ready', file=sys.stderr, flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        f"boot_image.image = lambda: boot_image.run([{str(script)!r}], timeout=60)\n"
        "sys.exit(boot_image.main())"
    )
    assert interrupt(code) == (130, "stopped\n")
    assert not mark.exists()
