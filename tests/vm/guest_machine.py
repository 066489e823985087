# SPDX-License-Identifier: Apache-2.0
"""The arm64 guest, seen from the host: build its image once, boot it with a program, fetch what the program found out.

QEMU emulates (TCG): nothing is asked of the host but its CPU, and a guest has what a developer's container often lacks, a real cgroup
v2 tree. The guest's clock counts its instructions (icount): an instruction is 4 ns and idle time passes at once. So however loaded the
host is, the guest does not notice; with the host's clock a busy host makes the guest's kernel miss ticks, and so up to a third of the
CPU time in /proc/stat. The image lies in the user's cache, named by the content of the files that it is built from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "scripts/lib"))

from interrupts import interrupt_held  # noqa: E402

IMAGE_SOURCES = ("build-image", "guest/init", "guest/initramfs-init")
EXACT_CPU_TIME = "nohz_full=1 skew_tick=1"
"""The emulated CPUs take turns, so one's timer tick often comes while the other has its turn, and is lost: 4 % of the time in
/proc/stat, measured. So the ticks are set apart, and CPU 1 is accounted by the clock instead of ticks: 0.5 % are left.
What is to be capped must run on CPU 0: without ticks a cap is enforced up to a second late, and what is missed is lost."""
RESULTS_SIZE = 64 * 1024 * 1024
"""Room on the disk on which the guest returns its results; a guest that writes more fails."""
ENDS_WITHIN = 30.0
"""Seconds that a program has to tidy up when it is interrupted."""


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "pycm"


def content_key(*paths: Path) -> str:
    """Name for something made from these files: it changes with their content."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def image() -> Path:
    """Directory with the guest's kernel, initramfs and root disk, built if it is not there yet."""
    wanted = cache_dir() / "vm" / content_key(*(HERE / name for name in IMAGE_SOURCES))
    if not wanted.is_dir():
        build(wanted)
    os.utime(wanted)  # `scripts/test` removes what was not used for long
    return wanted


def build(wanted: Path) -> None:
    """Build beside the wanted place and move it there whole, so that a broken build is never taken for an image."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
        run([str(HERE / "build-image"), f"{work}/image"], timeout=1200)
        with contextlib.suppress(FileExistsError):
            os.rename(f"{work}/image", wanted)


def run(command: list[str], timeout: float) -> str:
    """Run a program to its end; if it fails, the error shows what it printed last. Ctrl-C is handed on to it, and waited for."""
    with (
        interrupt_held() as release,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as child,
    ):  # fmt: skip
        try:
            release()
            printed, _ = child.communicate(timeout=timeout)
        except BaseException:
            end(child)
            raise
    text = printed.decode(errors="replace")
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}:\n{text[-4000:]}")
    return text


def end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt a program with all that it started, and wait: it removes what it made. One that does not listen is killed."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=ENDS_WITHIN)
            return


def qemu_command(image_dir: Path, app: Path, results: Path) -> list[str]:
    disk = "format=raw,if=virtio"
    return [
        "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024",
"-accel", "tcg,thread=single",  # never KVM, even where /dev/kvm exists: results must not depend on it
        "-icount", "shift=2,sleep=off", "-rtc", "clock=vm",
        "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none",
        "-kernel", f"{image_dir}/vmlinuz", "-initrd", f"{image_dir}/initrd.gz",
        "-append", f"console=ttyAMA0 panic=-1 quiet psi=1 mitigations=off {EXACT_CPU_TIME}",
        "-drive", f"file={image_dir}/root.ext4,{disk},snapshot=on,cache=unsafe",
        "-drive", f"file={app},{disk},readonly=on",
        "-drive", f"file={results},{disk},cache=unsafe",
        "-object", "rng-random,filename=/dev/urandom,id=rng", "-device", "virtio-rng-pci,rng=rng",
    ]  # fmt: skip


def pack(tree: Path, archive: Path) -> None:
    """The guest's second disk: a raw tar of *tree*, padded to whole sectors."""
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tree, arcname=".")
    os.truncate(archive, -(-archive.stat().st_size // 512) * 512)


def unpack_results(disk: Path, results: Path) -> None:
    with contextlib.suppress(tarfile.ReadError), tarfile.open(disk) as tar:
        for member in tar:
            if member.isfile():
                target = results / Path(member.name).name
                target.write_bytes(tar.extractfile(member).read())


def boot(tree: Path, results: Path, limit: float) -> int:
    """Boot the guest with *tree* as /app, run its `run`; *results* gets its files and console. Returns its exit code, -1 if none came."""
    results.mkdir(parents=True, exist_ok=True)
    image_dir = image()
    with tempfile.TemporaryDirectory(prefix="pycm-vm-") as work:
        app, disk = Path(work, "app.tar"), Path(work, "results.raw")
        pack(tree, app)
        with disk.open("wb") as file:
            file.truncate(RESULTS_SIZE)
        with (results / "serial.log").open("wb") as serial, contextlib.suppress(subprocess.TimeoutExpired):
            # A run that takes too long is killed by `run` itself; what the console showed until then stays in serial.log.
            subprocess.run(
                qemu_command(image_dir, app, disk),
                stdin=subprocess.DEVNULL, stdout=serial, stderr=serial, timeout=limit, check=False,
            )  # fmt: skip
        unpack_results(disk, results)
    code = results / "exit-code"
    return int(code.read_text()) if code.exists() else -1
