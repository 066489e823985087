# SPDX-License-Identifier: Apache-2.0
"""What pycm adds to an image that has Python and containerd, in a table: scripts/size [kirkstone | scarthgap | wrynose]

pycm and the libraries that it imports are installed into a temporary directory, for arm64, in the versions of the release (pins-*.txt),
as the recipes do it with pycm.inc: byte code without source, without tests or tools of libraries. Sizes are of files, rounded up to blocks of 4 KiB.

Byte code differs in size between versions of Python: it is made with that of the release, if this machine has it.

Beside the sum: the four CNI plugins that are used, Go programs of virtualization-layer, in Debian's build for this machine. kirkstone links python3-protobuf
with a libprotobuf of its own package; the wheel that stands for it here has that library inside.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

LIB = Path(__file__).resolve().parent
REPOSITORY = LIB.parents[1]
PYTHON = {"kirkstone": "3.10", "scarthgap": "3.12", "wrynose": "3.14"}
LIBRARIES = {
    "pycm": "",
    "grpclib": "",
    "h2": "",
    "hpack": "",
    "hyperframe": "",
    "multidict": "",
    "protobuf": "",
    "cgroupspy": "cgroup1",
    "psutil": "host-figures",
    "paho-mqtt": "twin",
    "six": "",
    "tomli": "",
}
"""Each with the part (PACKAGECONFIG) that wants it."""
ONLY = {"six": ("kirkstone",), "tomli": ("kirkstone",)}
"""six: kirkstone's protobuf says it needs it."""
WITH_SOURCE = ("six",)
"""Left as other layers build it; the source of the rest is in packages of its own."""
PURE = ("cgroupspy", "paho-mqtt")
MACHINE = {("psutil", "kirkstone"): "x86_64", ("psutil", "scarthgap"): "x86_64"}
"""What there are no arm64 wheels of."""
LIMIT = 8 << 20
BLOCK = 4096
CNI = Path("/usr/lib/cni")
PLUGINS = ("bridge", "firewall", "host-local", "portmap")
SOURCE = (".py", ".pyi", ".proto")
TOOLS = ("grpclib/plugin", "bin", "psutil/tests")
"""Packaged apart by the recipes."""


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}:\n{done.stderr[-2000:]}")


def install(name: str, release: str, place: Path) -> None:
    options = [
        "--no-deps",
        "--no-compile",
        "--target",
        str(place),
        "-c",
        str(LIB / f"pins-{release}.txt"),
        name,
    ]
    if name in PURE:  # partly only there as source; the same for every machine
        pip("install", *options)
        return
    machine = MACHINE.get((name, release), "aarch64")
    wanted = (
        f"--platform={kind}_{machine}"
        for kind in ("manylinux2014", "manylinux_2_17", "manylinux2010", "manylinux_2_12")
    )
    pip("install", "--only-binary=:all:", f"--python-version={PYTHON[release]}", *wanted, *options)


def compiler(release: str) -> str:
    """The Python that makes the byte code: of the same version as on the device, or else this one."""
    minor = int(PYTHON[release].partition(".")[2])
    return next(filter(environment.usable, environment.candidates(minor)), sys.executable)


def stripped(path: Path) -> int:
    """The size that a shared object has without symbols and debugging, which packages of an image never have (ELF, 64 bit)."""
    content = path.read_bytes()
    if content[:5] != b"\x7fELF\x02":
        return len(content)
    table, step, count = *struct.unpack_from("<Q", content, 0x28), *struct.unpack_from("<HH", content, 0x3A)
    end = 0
    for at in range(table, table + step * count, step):
        kind, flags, _, offset, size = struct.unpack_from("<LQQQQ", content, at + 4)
        if flags & 2 and kind != 8:  # allocated, and not .bss
            end = max(end, offset + size)
    return end + step * count


def size(place: Path, *, source: bool) -> tuple[int, int]:
    """Bytes of all but byte code, and of byte code, in whole blocks."""
    sizes = [0, 0]
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        if path.is_file() and not name.startswith(TOOLS) and (source or path.suffix not in SOURCE):
            sizes[path.suffix == ".pyc"] += -(-stripped(path) // BLOCK) * BLOCK
    return sizes[0], sizes[1]


def main() -> int:
    release = sys.argv[1] if len(sys.argv) > 1 else "scarthgap"
    if release in {"-h", "--help"}:
        print(__doc__.strip())
        return 0
    if release not in PYTHON or len(sys.argv) > 2:
        print(
            f"error: release {' '.join(sys.argv[1:])!r}: choose one of {', '.join(PYTHON)}", file=sys.stderr
        )
        return 2
    total = 0
    python = compiler(release)
    print(f"byte code made by {os.path.basename(python)} (on the device: {PYTHON[release]})")
    print(f"{release + ', arm64, KiB':24}{'files':>8}{'byte code':>12}{'sum':>8}  only for")
    with tempfile.TemporaryDirectory() as top:
        for name, part in LIBRARIES.items():
            if release not in ONLY.get(name, PYTHON):
                continue
            place = Path(top) / name
            if name == "pycm":
                pip("install", "--no-deps", "--no-compile", "--target", str(place), str(REPOSITORY))
            else:
                install(name, release, place)
            subprocess.run([python, "-m", "compileall", "-qq", str(place)], check=False)
            files, code = size(place, source=name in WITH_SOURCE)
            total += files + code
            print(f"{name:24}{files >> 10:8}{code >> 10:12}{(files + code) >> 10:8}  {part}".rstrip())
    print(f"{'together':44}{total >> 10:8}: {total / (1 << 20):.1f} MiB of {LIMIT >> 20}")
    plugins = sum(-(-stripped(CNI / name) // BLOCK) * BLOCK for name in PLUGINS)
    print(f"{'beside it: CNI plugins, ' + os.uname().machine:44}{plugins >> 10:8}  network")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
