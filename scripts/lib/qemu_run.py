# SPDX-License-Identifier: Apache-2.0
"""Boot an arm64 image under QEMU (emulated, never KVM), with its console here and MQTT and ssh forwarded to loop-back
ports.

The image is a directory: what Yocto leaves in tmp/deploy/images/MACHINE, or what scripts/qemu-image makes; or one disk
of several in there. Without one the test image is made and booted. QEMU takes this program's place, so whoever has its
process id can cut the power.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from interrupts import interrupt_held

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
KERNELS = ("vmlinuz", "Image", "Image.gz", "zImage")
DISKS = ("root.ext4", "*.wic.qcow2", "*.wic", "*.ext4")
FIRMWARE = ("u-boot.bin", "u-boot-qemuarm64.bin")
CONSOLE = "console=ttyAMA0 panic=-1 psi=1"
TEST_IMAGE = "quiet mitigations=off rw init=/lib/systemd/systemd systemd.show_status=0 systemd.unified_cgroup_hierarchy=1"
YOCTO = "root=/dev/vda rw"
TIMESTAMP = re.compile(r"-\d{14}\b")
"""Date in the name of a Yocto build; the newest build also has a link without it."""
STOPPED = 130
"""A shell's exit code for a program that Ctrl-C ended."""


class RunError(Exception):
    """The reason for booting nothing, in one line."""


@dataclass(frozen=True)
class Image:
    """The parts of an image, found in a directory."""

    disk: Path
    kernel: Path | None = None
    initrd: Path | None = None
    firmware: Path | None = None

    @property
    def is_test_image(self) -> bool:
        return self.kernel is not None and self.kernel.name == "vmlinuz"

    @property
    def is_bare(self) -> bool:
        """Yocto's root file system alone, without the other partitions of a disk."""
        return self.firmware is None and not self.is_test_image


def find(place: Path) -> Image:
    """The image at *place*, a directory or a disk in one. A disk with partitions (wic) brings its own kernel, which
    U-Boot loads; all else needs one beside it.
    """
    directory = place
    if place.is_file():
        disk, directory = place, place.parent
    elif place.is_dir():
        disk = root_disk(place)
    else:
        raise RunError(f"no such directory: {place}")
    if ".wic" in disk.name:
        firmware = first(directory, FIRMWARE)
        if firmware is None:
            raise RunError(f"{disk.name} needs a boot loader beside it: {' or '.join(FIRMWARE)}")
        return Image(disk, firmware=firmware)
    kernel = first(directory, KERNELS)
    if kernel is None:
        raise RunError(f"no kernel in {directory}: looked for {', '.join(KERNELS)}")
    return Image(disk, kernel, first(directory, ("initrd.gz",)))


def root_disk(directory: Path) -> Path:
    """Return the only disk that the first matching pattern finds, without older builds of it."""
    for pattern in DISKS:
        found = sorted(directory.glob(pattern))
        newest = [path for path in found if not TIMESTAMP.search(path.name)] or found
        if len(newest) > 1:
            names = ", ".join(path.name for path in newest[:5]) + (", ..." if len(newest) > 5 else "")
            raise RunError(f"{len(newest)} root disks in {directory}: {names}; give the path of one")
        if newest:
            return newest[0]
    raise RunError(f"no root disk in {directory}: looked for {', '.join(DISKS)}")


def first(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_file()), None)


def check_kept(kept: Path) -> None:
    """Raise before an image is made, which takes minutes."""
    if kept.is_dir():
        raise RunError(f"--disk {kept} is a directory: name a file")
    if not kept.parent.is_dir():
        raise RunError(f"no such directory: {kept.parent} (for --disk {kept.name})")


def prepare_disk(image: Image, kept: Path | None) -> tuple[Path, bool]:
    """Return the disk to boot, and whether writes are kept. The image's own disk is never changed."""
    if kept is None:
        return image.disk, False
    if not kept.exists():
        part = kept.with_name(kept.name + ".part")
        try:
            # holes stay holes; a copy that is cut short is never used as a disk
            done = subprocess.run(
                ["cp", "--sparse=always", "--reflink=auto", str(image.disk.resolve()), str(part)],
                stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RunError(f"cannot make {kept}: {' '.join(done.stderr.split())}")
            os.rename(part, kept)
        finally:
            part.unlink(missing_ok=True)
    return kept, True


def free_port(wanted: int) -> int:
    """Return *wanted*, or any other port if it is in use or 0."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RunError("no loop-back port is free")


def quoted(path: Path) -> str:
    """Quote a file's name for a QEMU option, in which a comma separates values."""
    return str(path).replace(",", ",,")


def command(image: Image, disk: Path, *, keep: bool, ports: tuple[int, int], options: argparse.Namespace) -> list[str]:  # fmt: skip
    kind = "qcow2" if image.disk.name.endswith(".qcow2") else "raw"
    # No cache: what the guest's disk has confirmed is in the file, whenever a test kills QEMU.
    mode = "cache=writethrough" if keep else "snapshot=on,cache=unsafe"
    mqtt, ssh = ports
    forward = f"hostfwd=tcp:127.0.0.1:{mqtt}-:1883,hostfwd=tcp:127.0.0.1:{ssh}-:22"
    restrict = "off" if options.network else "on"
    # Emulated, never KVM, even where /dev/kvm exists: Debian's kernels may not boot with it.
    speed = ["-accel", "tcg,thread=multi"]
    if options.steady:
        speed = ["-accel", "tcg,thread=single", "-icount", "shift=2,sleep=on", "-rtc", "clock=vm"]
    after_reset = [] if options.reboot else ["-no-reboot"]
    words = [
        "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", str(options.memory),
        *speed, "-nodefaults", *after_reset, "-display", "none", "-serial", "mon:stdio" if sys.stdin.isatty() else "stdio",
        "-drive", f"file={quoted(disk)},format={kind},if=virtio,{mode}",
        "-netdev", f"user,id=net,restrict={restrict},{forward}", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-object", "rng-random,filename=/dev/urandom,id=rng", "-device", "virtio-rng-pci,rng=rng",
    ]  # fmt: skip
    if image.firmware:
        return [*words, "-bios", str(image.firmware)]
    arguments = f"{CONSOLE} {TEST_IMAGE if image.is_test_image else YOCTO} {options.append}".strip()
    words += ["-kernel", str(image.kernel), "-append", arguments]
    return [*words, "-initrd", str(image.initrd)] if image.initrd else words


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def number(low: int, high: int) -> Callable[[str], int]:
    """A whole number from *low* to *high*."""

    def parsed(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} must be a number from {low} to {high}")
        return int(text)

    return parsed


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="scripts/qemu-run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        help="image to boot, or a disk in it; default: the Debian test image",
    )
    parser.add_argument("--disk", type=Path, metavar="FILE", help="keep what the guest writes in FILE, made at first use; default: forget it")  # fmt: skip
    parser.add_argument("--mqtt", type=number(0, 65535), default=1883, metavar="PORT", help="loop-back port for MQTT (1883, or a free one)")  # fmt: skip
    parser.add_argument("--ssh", type=number(0, 65535), default=2222, metavar="PORT", help="loop-back port for ssh (2222, or a free one)")  # fmt: skip
    parser.add_argument(
        "--memory", type=number(256, 65536), default=1024, metavar="MIB", help="memory of the guest (1024)"
    )
    parser.add_argument("--network", action="store_true", help="let the guest out to the network; default: only the two ports in")  # fmt: skip
    parser.add_argument(
        "--append", default="", metavar="WORDS", help="more words for the kernel's command line"
    )
    parser.add_argument("--steady", action="store_true", help="use a clock that counts instructions: a busy host does not slow the guest's time")  # fmt: skip
    parser.add_argument(
        "--reboot", action="store_true", help="boot again when the guest resets itself; default: QEMU ends"
    )
    parser.add_argument("--print", action="store_true", dest="only_print", help="print QEMU's command line and end")  # fmt: skip
    return parser.parse_args(arguments)


def test_image() -> Path:
    """Make it with scripts/qemu-image, which installs what it needs."""
    # In a session of its own: Ctrl-C reaches each program from the one that waits for it, in order.
    command = [REPOSITORY / "scripts/qemu-image"]
    with (
        interrupt_held() as release,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as maker,
    ):
        try:
            release()
            printed, _ = maker.communicate()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.killpg(maker.pid, signal.SIGINT)
            # it removes what it has made so far, and says so
            if maker.wait() == STOPPED:
                sys.exit(STOPPED)
            raise
    if maker.returncode:
        raise RunError("there is no test image")
    return Path(printed.splitlines()[-1])


def main() -> int:
    options = parse(sys.argv[1:])
    if options.disk is not None:
        check_kept(options.disk)
    image = find(options.directory or test_image())
    if options.disk is not None and image.disk.resolve() == options.disk.resolve():
        raise RunError(f"{options.disk} is the image itself: name another file")
    ports = (free_port(options.mqtt), free_port(options.ssh))
    if options.only_print:
        words = command(
            image, options.disk or image.disk, keep=bool(options.disk), ports=ports, options=options
        )
        print(shlex.join(words))
        return 0
    if shutil.which("qemu-system-aarch64") is None:
        raise RunError("qemu-system-aarch64 is missing: apt-get install qemu-system-arm")
    disk, keep = prepare_disk(image, options.disk)
    words = command(image, disk, keep=keep, ports=ports, options=options)
    print(f"disk: {disk}{'' if keep else ' (what is written is forgotten)'}")
    if image.is_bare:
        print(
            "note: a root file system alone: an image of Leda's lacks its partition /data here, without which containerd and pycm"
            " do not start; boot the .wic.qcow2 of sdv-image-all"
        )
    print(
        f"MQTT: mosquitto_sub -h 127.0.0.1 -p {ports[0]} -v -t '#'    (if the image's broker listens beyond its own loop-back)"
    )
    hint = "" if image.is_test_image else "    (only if the image has an ssh server)"
    print(
        f"ssh:  ssh -p {ports[1]} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@127.0.0.1{hint}"
    )
    if sys.stdin.isatty():
        print("console: this terminal; Ctrl-A X ends QEMU, Ctrl-A H shows more")
    sys.stdout.flush()
    os.execvp(words[0], words)
    raise AssertionError("execvp does not come back")


def run() -> int:
    try:
        return main()
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(run())
