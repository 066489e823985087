# SPDX-License-Identifier: Apache-2.0
"""What pycm adds to an image that has Python and containerd, in a table: scripts/size [kirkstone | scarthgap | wrynose]

pycm and the libraries that it imports are installed for arm64, in the versions of the release (pins-*.txt), as the
recipes do it: byte code without source, without tests or tools of libraries. Sizes are of files, rounded up to blocks
of 4 KiB. Each package of the recipe has a limit of its own; the command ends with 1 if one is exceeded.

Byte code differs in size between versions of Python: it is made with that of the release, if this machine has it.

Beside the sums: the four CNI plugins that are used, Go programs of virtualization-layer, in Debian's build for this
machine; and for kirkstone libprotobuf, which python3-protobuf is linked with there (Debian's build): the wheel that
stands for it here has the part of that library that it uses inside, so the truth lies between the sum and the sum with
that line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import environment

LIB = Path(__file__).resolve().parent
REPOSITORY = LIB.parents[1]
PYTHON = {"kirkstone": "3.10", "scarthgap": "3.12", "wrynose": "3.14"}
LIBRARIES = {
    "grpclib": "",
    "h11": "",
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
AGENT_OF_CLI = ("__init__", "daemon", "line", "main")
"""Modules of pycm/cli that the agent's program imports: in the package pycm, the others in pycm-cli."""
BESIDE_CODE = {"pycm": ("pycm.service", "containerd.toml", "mosquitto.conf"), "pycm-conf": ("config.toml",)}
"""Files of conf/ in each package; and one block for the program that pycm and pycm-cli have."""
LIMITS = {"pycm with its libraries": 8192, "pycm-cli": 600}
"""KiB on flash: the budget."""
BLOCK = 4096
CNI = Path("/usr/lib/cni")
PLUGINS = ("bridge", "firewall", "host-local", "portmap")
LIBPROTOBUF = "/usr/lib/*/libprotobuf.so.*"
SOURCE = (".py", ".pyi", ".proto")
TOOLS = ("grpclib/plugin", "bin", "psutil/tests")
"""Packaged apart by the recipes."""


@dataclass
class Size:
    """Bytes in whole blocks."""

    files: int = 0
    code: int = 0

    @property
    def kib(self) -> int:
        return (self.files + self.code) >> 10

    def add(self, path: Path) -> None:
        rounded = -(-stripped(path) // BLOCK) * BLOCK
        if path.suffix == ".pyc":
            self.code += rounded
        else:
            self.files += rounded


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}:\n{done.stderr[-2000:]}")


def libraries(release: str) -> list[str]:
    return [name for name in LIBRARIES if release in ONLY.get(name, PYTHON)]


def pins(release: str) -> Path:
    return LIB / f"pins-{release}.txt"


def install(name: str, release: str, place: Path, *, python: str = "", version: str = "") -> None:
    """Install a library for arm64; *python* and *version* (NAME==VERSION) are the release's by default."""
    options = ["--no-deps", "--no-compile", "--target", str(place)]
    options += [version] if version else ["-c", str(pins(release)), name]
    if name in PURE:  # partly only there as source; the same for every machine
        pip("install", *options)
        return
    machine = "aarch64" if version else MACHINE.get((name, release), "aarch64")
    wanted = (
        f"--platform={kind}_{machine}"
        for kind in ("manylinux2014", "manylinux_2_17", "manylinux2010", "manylinux_2_12")
    )
    pip(
        "install", "--only-binary=:all:", f"--python-version={python or PYTHON[release]}", *wanted, *options
    )  # fmt: skip


def drop_tools(site: Path) -> None:
    for name in TOOLS:
        shutil.rmtree(site / name, ignore_errors=True)


def compile_sourceless(site: Path, python: str) -> None:
    """Byte code in the place of the source, as the layer's pycm_sourceless makes it."""
    command = [python, "-I", "-m", "compileall", "-qq", "-b", "-f", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, "-s", str(site), "-p", "/usr/src", str(site)], check=False)
    for path in [path for path in site.rglob("*") if path.suffix in SOURCE]:
        path.unlink()


def compiler(release: str) -> str:
    """The Python that makes the byte code: of the same version as on the device, or else this one."""
    minor = int(PYTHON[release].partition(".")[2])
    return next(filter(environment.usable, environment.candidates(minor)), sys.executable)


def stripped(path: Path) -> int:
    """The size that a shared object has without symbols and debugging, which packages of an image never have (ELF, 64
    bit).
    """
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


def installed(release: str) -> Path:
    """The release's libraries, each in a directory of its own, with byte code; kept in the user's cache."""
    python = compiler(release)
    made_of = (Path(__file__).read_bytes(), pins(release).read_bytes(), os.path.realpath(python).encode())
    key = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]
    wanted = environment.cache_dir() / "size" / f"{release}-{key}"
    if not wanted.is_dir():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
            top = Path(work, "site")
            for name in libraries(release):
                install(name, release, top / name)
                drop_tools(top / name)
                if name in WITH_SOURCE:
                    subprocess.run([python, "-m", "compileall", "-qq", str(top / name)], check=False)
                else:
                    compile_sourceless(top / name, python)
            with contextlib.suppress(OSError):  # another run was faster
                os.rename(top, wanted)
    os.utime(wanted)
    return wanted


def package_of(name: str) -> str:
    """The recipe's package of a file in site-packages."""
    path = Path(name)
    command = path.parent == Path("pycm/cli") and path.stem not in AGENT_OF_CLI
    return "pycm-cli" if command else "pycm"


def packages(release: str) -> dict[str, Size]:
    """What the recipe's packages take."""
    sizes = {name: Size() for name in ("pycm", "pycm-cli", "pycm-conf")}
    with tempfile.TemporaryDirectory() as work:
        site = Path(work, "site")
        pip("install", "--no-deps", "--no-compile", "--target", str(site), str(REPOSITORY))
        drop_tools(site)
        compile_sourceless(site, compiler(release))
        for path in site.rglob("*"):
            if path.is_file():
                sizes[package_of(str(path.relative_to(site)))].add(path)
    for package, names in BESIDE_CODE.items():
        for name in names:
            sizes[package].add(REPOSITORY / "conf" / name)
    for package in ("pycm", "pycm-cli"):
        sizes[package].files += BLOCK
    return sizes


def measure(release: str) -> tuple[dict[str, Size], dict[str, int]]:
    """Each package's and library's size, and the sums that have limits, in KiB."""
    sizes, place = packages(release), installed(release)
    for name in libraries(release):
        sizes[name] = Size()
        for path in (place / name).rglob("*"):
            if path.is_file():
                sizes[name].add(path)
    agent = sizes["pycm"].kib + sum(sizes[name].kib for name in libraries(release))
    return sizes, {"pycm with its libraries": agent, "pycm-cli": sizes["pycm-cli"].kib}


def beside(release: str) -> dict[str, int]:
    """What other packages bring for it, in KiB."""
    found = {"CNI plugins": sum(-(-stripped(CNI / name) // BLOCK) * BLOCK for name in PLUGINS) >> 10}
    if release == "kirkstone":
        library = next(
            (path for path in sorted(Path("/").glob(LIBPROTOBUF[1:])) if not path.is_symlink()), None
        )
        if library is not None:
            found["libprotobuf"] = -(-stripped(library) // BLOCK) * BLOCK >> 10
    return found


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
    print(f"byte code made by {os.path.basename(compiler(release))} (on the device: {PYTHON[release]})")
    print(f"{release + ', arm64, KiB':32}{'files':>8}{'byte code':>12}{'sum':>8}  only for")
    sizes, sums = measure(release)
    for name, found in sizes.items():
        print(f"{name:32}{found.files >> 10:8}{found.code >> 10:12}{found.kib:8}  {LIBRARIES.get(name, '')}".rstrip())  # fmt: skip
    for name, kib in sums.items():
        print(f"{name:52}{kib:8} of {LIMITS[name]}{'' if kib <= LIMITS[name] else ': TOO MUCH'}")
    for name, kib in beside(release).items():
        print(f"{'beside it: ' + name + ', ' + os.uname().machine:52}{kib:8}")
    return int(any(kib > LIMITS[name] for name, kib in sums.items()))


if __name__ == "__main__":
    sys.exit(main())
