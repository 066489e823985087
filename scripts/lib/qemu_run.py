# SPDX-License-Identifier: Apache-2.0
"""Boot an arm64 image under QEMU (emulated, never KVM), with its console here and MQTT and ssh forwarded to loop-back ports.

The image is a directory: what Yocto leaves in tmp/deploy/images/MACHINE, or what scripts/qemu-image makes. Without one the latter is
made and booted. QEMU takes this program's place, so whoever has its process id can cut the power.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
KERNELS = ("vmlinuz", "Image", "Image.gz", "zImage")
DISKS = ("root.ext4", "*.wic.qcow2", "*.wic", "*.ext4")
FIRMWARE = ("u-boot.bin", "u-boot-qemuarm64.bin")
CONSOLE = "console=ttyAMA0 panic=-1 psi=1"
TEST_IMAGE = "quiet mitigations=off rw init=/lib/systemd/systemd systemd.show_status=0 systemd.unified_cgroup_hierarchy=1"
YOCTO = "root=/dev/vda rw"


class RunError(Exception):
    """Why nothing is booted, in one line."""


@dataclass(frozen=True)
class Image:
    """What was found in a directory."""

    disk: Path
    kernel: Path | None = None
    initrd: Path | None = None
    firmware: Path | None = None

    @property
    def is_test_image(self) -> bool:
        return self.kernel is not None and self.kernel.name == "vmlinuz"


def find(directory: Path) -> Image:
    """The image in *directory*. A disk with partitions (wic) brings its own kernel, which U-Boot loads; all else needs one beside it."""
    if not directory.is_dir():
        raise RunError(f"no such directory: {directory}")
    disk = first(directory, DISKS)
    if disk is None:
        raise RunError(f"no root disk in {directory}: looked for {', '.join(DISKS)}")
    firmware = first(directory, FIRMWARE)
    if ".wic" in disk.name:
        if firmware is None:
            raise RunError(f"{disk.name} needs a boot loader beside it: {' or '.join(FIRMWARE)}")
        return Image(disk, firmware=firmware)
    kernel = first(directory, KERNELS)
    if kernel is None:
        raise RunError(f"no kernel in {directory}: looked for {', '.join(KERNELS)}")
    return Image(disk, kernel, first(directory, ("initrd.gz",)))


def first(directory: Path, patterns: tuple[str, ...]) -> Path | None:
    """The first pattern that something matches; of several matches the shortest name, which is Yocto's link to the newest build."""
    for pattern in patterns:
        found = sorted(directory.glob(pattern), key=lambda path: (len(path.name), path.name))
        if found:
            return found[0]
    return None


def prepare_disk(image: Image, kept: Path | None) -> tuple[Path, bool]:
    """The disk to boot and whether to keep what is written: the image's own is never changed."""
    if kept is None:
        return image.disk, False
    if not kept.exists():
        part = kept.with_name(kept.name + ".part")
        # holes stay holes; a copy that is cut short is never taken for a disk
        subprocess.run(
            ["cp", "--sparse=always", "--reflink=auto", str(image.disk.resolve()), str(part)], check=True
        )
        os.rename(part, kept)
    return kept, True


def free_port(wanted: int) -> int:
    """*wanted*, or where that is taken any other; 0 asks for any."""
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
    """A file's name inside a QEMU option, where a comma ends it."""
    return str(path).replace(",", ",,")


def command(image: Image, disk: Path, *, keep: bool, ports: tuple[int, int], options: argparse.Namespace) -> list[str]:  # fmt: skip
    kind = "qcow2" if image.disk.name.endswith(".qcow2") else "raw"
    # A disk without a cache: what the guest was told is written has been written, as with the power cut that a test plays.
    mode = "cache=writethrough" if keep else "snapshot=on,cache=unsafe"
    mqtt, ssh = ports
    forward = f"hostfwd=tcp:127.0.0.1:{mqtt}-:1883,hostfwd=tcp:127.0.0.1:{ssh}-:22"
    restrict = "off" if options.network else "on"
    # Emulated, never KVM, even where /dev/kvm exists: Debian's kernels may not boot with it.
    speed = ["-accel", "tcg,thread=multi"]
    if options.steady:
        speed = ["-accel", "tcg,thread=single", "-icount", "shift=2,sleep=on", "-rtc", "clock=vm"]
    words = [
        "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", str(options.memory),
        *speed, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "mon:stdio" if sys.stdin.isatty() else "stdio",
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
        self.exit(2, f"error: {message}; {self.prog} --help tells more\n")


def number(low: int, high: int) -> Callable[[str], int]:
    """A whole number from *low* to *high*."""

    def parsed(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low} to {high}")
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
        "directory", nargs="?", type=Path, help="image to boot; default: the Debian test image"
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
    parser.add_argument("--steady", action="store_true", help="a clock that counts instructions: to the guest a busy host is no slower")  # fmt: skip
    parser.add_argument("--print", action="store_true", dest="only_print", help="print QEMU's command line and end")  # fmt: skip
    return parser.parse_args(arguments)


def test_image() -> Path:
    """Made by the script of its own, which installs what it needs."""
    done = subprocess.run([REPOSITORY / "scripts/qemu-image"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RunError("there is no test image")
    return Path(done.stdout.splitlines()[-1])


def main() -> int:
    options = parse(sys.argv[1:])
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


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RunError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
