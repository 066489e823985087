# SPDX-License-Identifier: Apache-2.0
"""What pycm adds to an image that has Python and containerd, in a table: scripts/size [kirkstone | scarthgap]

pycm and the libraries that it imports are installed into a temporary directory, for arm64, in the versions of the release (pins-*.txt),
with byte code and without tests or tools of libraries, as the recipes do it. Sizes are of files, rounded up to blocks of 4 KiB.

Not in it: protobuf's C++ library, against which kirkstone and scarthgap build python3-protobuf; a wheel brings its own code. The CNI
plugins, Go programs of virtualization-layer, are not to be had as packages of PyPI: their size is for an image to tell.
"""

from __future__ import annotations

import compileall
import subprocess
import sys
import tempfile
from pathlib import Path

LIB = Path(__file__).resolve().parent
REPOSITORY = LIB.parents[1]
PYTHON = {"kirkstone": "3.10", "scarthgap": "3.12"}
LIBRARIES = ("paho-mqtt", "grpclib", "h2", "hpack", "hyperframe", "multidict", "protobuf", "cgroupspy")
PURE = ("cgroupspy", "paho-mqtt")
LIMIT = 8 << 20
BLOCK = 4096
TOOLS = ("grpclib/plugin", "bin")
"""Packaged apart by the recipes."""


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}:\n{done.stderr[-2000:]}")


def install(name: str, release: str, place: Path) -> None:
    constraints = ("-c", str(LIB / f"pins-{release}.txt"))
    if name in PURE:  # partly only there as source; the same for every machine
        pip("install", "--no-deps", "--no-compile", "--target", str(place), *constraints, name)
        return
    wanted = f"--platform=manylinux2014_aarch64 --platform=manylinux_2_17_aarch64 --python-version={PYTHON[release]}"
    pip("install", "--no-deps", "--no-compile", "--only-binary=:all:", *wanted.split(), "--target", str(place), *constraints, name)  # fmt: skip


def size(place: Path) -> tuple[int, int]:
    """Bytes of all but byte code, and of byte code, in whole blocks."""
    sizes = [0, 0]
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        if path.is_file() and not name.startswith(TOOLS):
            sizes[path.suffix == ".pyc"] += -(-path.stat().st_size // BLOCK) * BLOCK
    return sizes[0], sizes[1]


def main() -> int:
    release = sys.argv[1] if len(sys.argv) > 1 else "scarthgap"
    if release not in PYTHON:
        print(__doc__.strip())
        return 0 if release in {"-h", "--help"} else 2
    total = 0
    print(f"{release}, arm64{'files':>19} KiB{'byte code':>12} KiB{'sum':>8} KiB")
    with tempfile.TemporaryDirectory() as top:
        for name in ("pycm", *LIBRARIES):
            place = Path(top) / name
            if name == "pycm":
                pip("install", "--no-deps", "--no-compile", "--target", str(place), str(REPOSITORY))
            else:
                install(name, release, place)
            compileall.compile_dir(place, quiet=2)
            files, code = size(place)
            total += files + code
            print(f"{name:20}{files >> 10:12}{code >> 10:20}{(files + code) >> 10:14}")
    print(f"{'together':20}{total >> 10:46} KiB, {total / (1 << 20):.1f} MiB of {LIMIT >> 20} MiB")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
