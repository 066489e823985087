# SPDX-License-Identifier: Apache-2.0
"""The arm64 test image: Debian with systemd, containerd, mosquitto and pycm, installed as a Yocto image has it. No Yocto is needed.

    boot_image.py    prints the directory of the image, made if it is not there or pycm has changed

The Debian part is made once (a minute or two); a change of pycm only makes the disk anew (some seconds). Both are kept in the user's
cache, the Debian part by the content of its scripts, the whole by the content of all that goes into it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import recipe_files
from guest_machine import HERE, cache_dir, content_key, run
from guest_payload import REPOSITORY, dependencies, install_pycm

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_SOURCES = ("build-image", "guest/systemd-tree", "guest/initramfs-init")
REFERENCE = "registry.test/demo/busybox:1"
SPARE_MIB = 1024
"""Room on the disk for images and containers; the file is sparse."""
KEEP = 2 * 3600
"""Seconds that an image made of other sources is kept: somebody may be about to boot it."""
DEMO = """\
{{
  "container_name": "demo",
  "image": {{"name": "{reference}"}},
  "config": {{"cmd": ["sh", "-c", "while :; do echo alive; sleep 5; done"]}},
  "host_config": {{"network_mode": "host", "restart_policy": {{"type": "always"}}}}
}}
"""
WEB = """\
{{
  "container_id": "web",
  "container_name": "web",
  "image": {{"name": "{reference}"}},
  "config": {{"cmd": ["sh", "-c", "echo hello from the bridge >/tmp/index.html; exec busybox httpd -f -p 80 -h /tmp"]}},
  "host_config": {{
    "network_mode": "bridge",
    "port_mappings": [{{"protocol": "tcp", "host_ip": "localhost", "host_port": 30555, "container_port": 80}}]
  }}
}}
"""


def base() -> Path:
    """Directory with kernel, initramfs, busybox and the tree of Debian's part."""
    wanted = cache_dir() / "vm" / ("systemd-" + content_key(*(HERE / name for name in BASE_SOURCES)))
    if not wanted.is_dir():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
            run([str(HERE / "build-image"), f"{work}/image", "systemd"], timeout=1200)
            with contextlib.suppress(FileExistsError):
                os.rename(f"{work}/image", wanted)
    os.utime(wanted)  # `scripts/test` removes what was not used for long
    return wanted


def sources() -> list[Path]:
    """All that decides what is in the image."""
    own = sorted(path for path in (REPOSITORY / "src").rglob("*.py") if path.is_file())
    parts = sorted((REPOSITORY / "conf").iterdir())
    builders = [*recipe_files.sources(), *(HERE / name for name in (*BASE_SOURCES, "guest_payload.py"))]
    return [*own, *parts, *builders, Path(__file__), REPOSITORY / "pyproject.toml"]


def image() -> Path:
    """Directory with `vmlinuz`, `initrd.gz` and `root.ext4`."""
    wanted = cache_dir() / "vm-boot" / content_key(*sources())
    if not wanted.is_dir():
        debian = base()
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
            build(debian, Path(work, "tree"), Path(work, "image"))
            with contextlib.suppress(FileExistsError):
                os.rename(f"{work}/image", wanted)
        remove_old(wanted)
    os.utime(wanted)
    return wanted


def remove_old(kept: Path) -> None:
    """Each change of pycm makes an image of some 200 MB."""
    for path in kept.parent.iterdir():
        with contextlib.suppress(OSError):
            if path != kept and path.stat().st_mtime < time.time() - KEEP:
                shutil.rmtree(path)


def build(debian: Path, tree: Path, out: Path) -> None:
    tree.mkdir()
    out.mkdir()
    run(["tar", "-C", str(tree), "-xf", str(debian / "root.tar")], timeout=300)
    install(tree, debian)
    used = int(run(["du", "-sm", str(tree)], timeout=60).split()[0])
    disk = ["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,root_owner=0:0", "-m", "0"]
    run([*disk, "-d", str(tree), str(out / "root.ext4"), f"{used * 13 // 10 + SPARE_MIB}M"], timeout=300)
    for name in ("vmlinuz", "initrd.gz"):
        shutil.copy(debian / name, out / name)


def install(tree: Path, debian: Path) -> None:
    """pycm's packages as the recipe installs them, libraries as the layer packages them, and an image for a first container."""
    shutil.copytree(dependencies(), tree / recipe_files.SITE[1:], dirs_exist_ok=True)
    install_pycm(tree)
    run(["systemctl", "--root", str(tree), "enable", "pycm.service"], timeout=60)
    conf = REPOSITORY / "conf"
    write(tree / "etc/containerd/config.toml", (conf / "containerd.toml").read_text())
    # The port that QEMU forwards ends at the guest's network card, not at its loop-back address.
    broker = (conf / "mosquitto.conf").read_text()
    assert "listener 1883 127.0.0.1\n" in broker
    write(
        tree / "etc/mosquitto/mosquitto.conf",
        # Its log has the time of each message, by the guest's clock.
        broker.replace("listener 1883 127.0.0.1\n", "listener 1883 0.0.0.0\nlog_type all\nlog_dest stderr\n"),
    )
    demo = tree / "usr/share/pycm-demo"
    write(demo / "demo.json", DEMO.format(reference=REFERENCE))
    write(demo / "web.json", WEB.format(reference=REFERENCE))
    maker = REPOSITORY / "scripts/lib/busybox_image.py"
    run(
        [sys.executable, str(maker), str(debian / "busybox"), "arm64", REFERENCE, str(demo / "image.tar")],
        timeout=60,
    )


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def interrupted(number: int, _frame: object) -> None:
    """Once: what was made is being removed from then on."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(make: Callable[[], Path]) -> int:
    signal.signal(signal.SIGINT, interrupted)
    try:
        print(make())
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(image))
