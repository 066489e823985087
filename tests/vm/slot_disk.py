# SPDX-License-Identifier: Apache-2.0
"""The test image as a whole disk: the layer's partitions, U-Boot's script and RAUC's configuration round the Debian-based root.

    slot_disk.py    prints the directory of the disk, made if it is not there or pycm has changed

The layout is read from the layer's wks file; script and configuration are the layer's, with the placeholders filled in as a recipe does.
Both root slots hold the root of boot_image.py, made read-only; its state lies on the data partition. An update bundle, signed with a key
that is thrown away, lies beside the disk and on its data partition. No file system is mounted and no foreign program runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import boot_image
from boot_image import write
from guest_machine import cache_dir, content_key, run
from guest_payload import REPOSITORY

from support import wks

LAYER = REPOSITORY / "meta-leda-pycm"
MACHINE = "qemuarm64"
WKS = LAYER / f"files/wic/leda-pycm-{MACHINE}.wks"
RAUC_FILES = LAYER / "dynamic-layers/rauc/recipes-bsp/pycm-rauc/files"
LEDA_FILES = LAYER / "dynamic-layers/meta-leda-distro/recipes-containers/pycm-leda/pycm-leda"
FIRMWARE = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
PLACEHOLDERS = {
    "MACHINE": MACHINE,
    "DISK": "/dev/vda",
    "ENV_SIZE": "0x40000",
    "KERNEL_IMAGETYPE": "Image",
    "KERNEL_BOOTCMD": "booti",
    "BOOTARGS": "console=ttyAMA0 quiet psi=1 mitigations=off net.ifnames=0 init=/lib/systemd/systemd systemd.show_status=0",
}
"""What the recipes fill in, with the words of the kernel that only Debian's guest needs."""
FSTAB = """\
/dev/root   /              auto   defaults,noatime,ro      0 0
LABEL=BOOT  /boot          vfat   defaults,nofail,noatime  0 0
LABEL=data  /data          auto   defaults,nofail,noatime  0 2
tmpfs       /tmp           tmpfs  mode=1777                0 0
tmpfs       /etc/dropbear  tmpfs  mode=0700                0 0
"""
"""Leda's mounts, and the places that its read-only root keeps in memory."""
VOLATILE = """\
# As volatile-binds does on a read-only root of Yocto's: /var can be written, until the power goes.
[Unit]
DefaultDependencies=no
Before=local-fs.target systemd-tmpfiles-setup.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "mkdir -p /run/var/upper /run/var/work && mount -t overlay overlay -o lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work /var"
[Install]
WantedBy=local-fs.target
"""
MARK_GOOD = """\
# meta-rauc's unit, after the agent is ready: a slot whose agent never gets there runs out of attempts.
[Unit]
After=pycm.service
Requires=pycm.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/rauc status mark-good
[Install]
WantedBy=multi-user.target
"""
CONTAINERD = """\
[Unit]
RequiresMountsFor=/data
"""
MANIFEST = f"""\
[update]
compatible=Eclipse Leda ({MACHINE})
version={{version}}

[bundle]
format=verity

[image.rootfs]
filename=root.ext4
adaptive=block-hash-index
"""
"""As bundle.bbclass writes it for leda-bundle-pycm."""
MODULES = "loop\ndm_verity\n"
"""What RAUC expects to find in the kernel; Yocto's has both built in."""
UNMASKED = (
    "system/systemd-udevd.service", "system/systemd-udev-trigger.service", "system/systemd-udevd-control.socket",
    "system/systemd-udevd-kernel.socket", "system/dbus.service", "system/dbus.socket", "system-generators/systemd-fstab-generator",
)  # fmt: skip
"""Below /etc/systemd: what the plain test image leaves out and this one needs to find disks by label, and for RAUC."""


def disk() -> Path:
    """Directory with the disk (.wic), U-Boot (u-boot.bin) and the bundle (update.raucb)."""
    parts = [
        WKS,
        *sorted(RAUC_FILES.iterdir()),
        *sorted(LEDA_FILES.iterdir()),
        Path(__file__),
        Path(wks.__file__),
        FIRMWARE,
    ]
    wanted = cache_dir() / "vm-disk" / content_key(*boot_image.sources(), *parts)
    if not wanted.is_dir():
        debian = boot_image.base()
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
            build(debian, Path(work))
            with contextlib.suppress(FileExistsError):
                os.rename(f"{work}/image", wanted)
        boot_image.remove_old(wanted)
    os.utime(wanted)
    return wanted


def build(debian: Path, work: Path) -> None:
    tree, out = work / "tree", work / "image"
    tree.mkdir()
    out.mkdir()
    run(["tar", "-C", str(tree), "-xf", str(debian / "root.tar")], timeout=300)
    boot_image.install(tree, debian)
    make_key(work)
    configure(tree, work)
    shutil.copy(FIRMWARE, out / "u-boot.bin")
    label_version(tree, "2")
    make_bundle(tree, work, out / "update.raucb")
    label_version(tree, "1")
    fill_data(tree, work / "data", out / "update.raucb")
    fill_boot(debian, work / "boot")
    assemble(out / f"{WKS.stem}.wic", {"root": tree, "data": work / "data", "boot": work / "boot"})


def filled(name: str) -> str:
    """A file of the layer with its placeholders filled in."""
    text = (RAUC_FILES / name).read_text()
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(f"@@{placeholder}@@", value)
    assert "@@" not in text, f"{name} has a placeholder that nobody fills in"
    return text


def configure(tree: Path, work: Path) -> None:
    """Make the plain root one that is read-only, keeps its state on /data and is updated by RAUC."""
    systemd = tree / "etc/systemd"
    for name in UNMASKED:
        (systemd / name).unlink()
    write(tree / "etc/fstab", FSTAB)
    for name in ("boot", "data"):
        (tree / name).mkdir(exist_ok=True)
    with (tree / "etc/passwd").open("a") as users, (tree / "etc/group").open("a") as groups:
        users.write("messagebus:x:991:991::/nonexistent:/usr/sbin/nologin\n")
        groups.write("messagebus:x:991:\n")
    write(systemd / "system/guest-volatile.service", VOLATILE)
    write(systemd / "system/rauc-mark-good.service", MARK_GOOD)
    write(systemd / "system/containerd.service.d/data.conf", CONTAINERD)
    run(
        ["systemctl", "--root", str(tree), "enable", "guest-volatile.service", "rauc-mark-good.service"],
        timeout=60,
    )
    containerd = tree / "etc/containerd/config.toml"
    write(containerd, containerd.read_text().replace("/var/lib/containerd", "/data/var/containerd"))
    write(tree / "etc/fw_env.config", filled("fw_env.config.in"))
    write(tree / "etc/rauc/system.conf", filled("system.conf.in"))
    shutil.copy(work / "cert.pem", tree / "etc/rauc/ca.cert.pem")
    write(tree / "etc/modules-load.d/rauc.conf", MODULES)
    install_leda(tree)


def install_leda(tree: Path) -> None:
    """pycm-leda as its recipe installs it; images come from the data partition, for this guest has no network."""
    (tree / "etc/container-management/config.toml").unlink()
    config = json.loads((LEDA_FILES / "config.json").read_text())
    config["containers"] = {"preload_dir": "/data/var/containers/images"}
    write(tree / "etc/container-management/config.json", json.dumps(config, indent=2))
    (tree / "var/lib/container-management").mkdir(parents=True)
    units = tree / "lib/systemd/system"
    write(units / "var-lib-container\\x2dmanagement.mount", (LEDA_FILES / "data.mount").read_text())
    migrate = "pycm-migrate-state.service"
    write(tree / "usr/libexec/pycm/migrate-state", (LEDA_FILES / "migrate-state").read_text(), 0o755)
    write(units / migrate, (LEDA_FILES / migrate).read_text())
    (units / "pycm.service.wants").mkdir()
    (units / "pycm.service.wants" / migrate).symlink_to(f"../{migrate}")


def label_version(tree: Path, version: str) -> None:
    """Which root is this? os-release(5) has a word for it."""
    release = tree / "usr/lib/os-release"
    lines = [line for line in release.read_text().splitlines() if not line.startswith("IMAGE_VERSION=")]
    write(release, "\n".join([*lines, f"IMAGE_VERSION={version}", ""]))


def make_key(work: Path) -> None:
    """A key that signs one bundle. Its certificate is valid for long: the disk may lie in the cache for months."""
    run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/O=pycm/CN=throw-away",
         "-keyout", str(work / "key.pem"), "-out", str(work / "cert.pem")],
        timeout=60,
    )  # fmt: skip


def make_bundle(tree: Path, work: Path, bundle: Path) -> None:
    content = work / "bundle"
    content.mkdir()
    write(content / "manifest.raucm", MANIFEST.format(version="2"))
    root = content / "root.ext4"
    used = int(run(["du", "-sm", str(tree)], timeout=60).split()[0])
    make_ext4(root, tree, "", 0, (used * 12 // 10 + 16) * wks.MIB)
    run(["resize2fs", "-fM", str(root)], timeout=60)
    run(["rauc", "bundle", "--cert", str(work / "cert.pem"), "--key", str(work / "key.pem"), str(content), str(bundle)], timeout=300)  # fmt: skip


def make_ext4(file: Path, tree: Path | None, label: str, offset: int, size: int) -> None:
    """ext4 at *offset* of a file. The rest of the file stays as it is."""
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", label]
    words += ["-E", f"lazy_itable_init=1,root_owner=0:0,offset={offset}"]
    words += ["-d", str(tree)] if tree else []
    run([*words, str(file), f"{size // 1024}k"], timeout=300)


def fill_data(tree: Path, data: Path, bundle: Path) -> None:
    """What Leda's sdv-image-data brings: descriptors of containers, here with their image; and the update to come."""
    demo = tree / "usr/share/pycm-demo"
    for name in ("containerd", "containers/manifests", "containers/images", "lib/container-management"):
        (data / "var" / name).mkdir(parents=True)
    for name in ("demo.json", "web.json"):
        shutil.copy(demo / name, data / "var/containers/manifests")
    shutil.copy(demo / "image.tar", data / "var/containers/images")
    shutil.copy(bundle, data)


def fill_boot(debian: Path, boot: Path) -> None:
    boot.mkdir()
    shutil.copy(debian / "vmlinuz", boot / "Image")
    shutil.copy(debian / "initrd.gz", boot)
    make_script(boot / "boot.scr")


def make_script(made: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".cmd") as script:
        script.write(filled("boot.cmd.in"))
        script.flush()
        words = ["mkimage", "-C", "none", "-A", "arm64", "-T", "script", "-d", script.name, str(made)]
        run(words, timeout=60)


def assemble(file: Path, trees: dict[str, Path]) -> None:
    """The disk, sparse: what no partition's content fills stays a hole."""
    partitions = wks.read(WKS)
    with file.open("wb") as made:
        made.truncate(wks.disk_size(partitions))
    make_table(file, partitions)
    for part in partitions:
        if part.fstype == "vfat" and part.number:
            make_vfat(file, part, sorted(trees["boot"].iterdir()) if part.source else [])
        elif part.number:
            tree = trees["data" if part.rootfs else "root"] if part.source else None
            make_ext4(file, tree, part.label, part.start, part.size)


def make_table(file: Path, partitions: list[wks.Partition]) -> None:
    with tempfile.NamedTemporaryFile("w") as table:
        table.write(wks.sfdisk_script(partitions, WKS.stem))
        table.flush()
        run(
            ["sh", "-c", 'sfdisk --quiet --no-reread --no-tell-kernel "$0" < "$1"', str(file), table.name],
            timeout=60,
        )


def make_vfat(file: Path, part: wks.Partition, files: list[Path]) -> None:
    place = f"{file}@@{part.start}"
    label = ["-v", part.label] if part.label else []
    run(["mformat", "-i", place, "-T", str(part.size // wks.SECTOR), *label, "::"], timeout=60)
    if files:
        run(["mcopy", "-i", place, *map(str, files), "::"], timeout=60)


if __name__ == "__main__":
    sys.exit(boot_image.main(disk))
