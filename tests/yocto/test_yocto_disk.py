# SPDX-License-Identifier: Apache-2.0
"""The disk of leda-image-pycm: what the image asks of wic, U-Boot's script, RAUC's configuration and the bundle."""

from __future__ import annotations

import configparser
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER, RELEASES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_support import Built, Release

INCLUDE = ("conf/distro/include/pycm.inc",)
IMAGES = LAYER / "dynamic-layers/meta-leda-distro/recipes-images"
RAUC = LAYER / "dynamic-layers/rauc/recipes-bsp/pycm-rauc"
KIRKSTONE, *NEWER = RELEASES
MACHINES = {
    "qemuarm64": {"disk": "/dev/vda", "env": "0x40000", "words": "", "types": {"ext4", "wic.qcow2"}},
    "raspberrypi4-64": {
        "disk": "/dev/mmcblk0p",
        "env": "0x4000",
        "words": "cgroup_enable=memory cgroup_memory=1",
        "types": {"ext4", "wic.bz2", "wic.bmap"},
    },
}
MKIMAGE = """#!/bin/sh
while [ $# -gt 1 ]; do
    [ "$1" != -d ] || script=$2
    shift
done
cp "$script" "$1"
"""


def for_machine(machine: str, **others: str) -> dict[str, str]:
    return {
        "MACHINE": machine,
        "OVERRIDES": f"${{MACHINE}}:pn-${{PN}}:class-target:{machine}",
        "KERNEL_IMAGETYPE": "Image",
        "UBOOT_ARCH": "arm64",
        **others,
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_image_makes_the_disk_of_its_machine(machine: str, read: Callable[..., Built]) -> None:
    names = ("IMAGE_FSTYPES", "WKS_FILES", "IMAGE_BOOT_FILES")
    variables = for_machine(machine, IMAGE_BOOT_FILES="u-boot.bin Image boot.scr")
    image = IMAGES / "images/leda-image-pycm.bb"
    found = read(KIRKSTONE, image, *names, include=INCLUDE, variables=variables)
    assert set(found.words("IMAGE_FSTYPES")) == MACHINES[machine]["types"]
    assert found["WKS_FILES"] == str(LAYER / f"files/wic/leda-pycm-{machine}.wks")
    assert found.words("IMAGE_BOOT_FILES") == ["u-boot.bin", "Image", "pycm-boot.scr;boot.scr"]


@pytest.mark.parametrize("machine", MACHINES)
def test_boot_script_is_filled_in_for_the_machine(
    machine: str, release: Release, read: Callable[..., Built], tmp_path: Path
) -> None:
    (tmp_path / "mkimage").write_text(MKIMAGE)
    (tmp_path / "mkimage").chmod(0o755)
    variables = for_machine(machine, DEPLOYDIR=str(tmp_path / "deploy"), PATH=f"{tmp_path}:/usr/bin:/bin")
    tasks = ("do_fetch", "do_unpack", "do_compile", "do_deploy")
    read(release, RAUC / "pycm-boot-script_1.0.bb", variables=variables, tasks=tasks)
    script = (tmp_path / "deploy/pycm-boot.scr").read_text()
    assert "@@" not in script
    assert f"uboot.env {MACHINES[machine]['env']}" in script
    assert str(MACHINES[machine]["words"]) in script
    assert "booti ${kernel_addr_r} - ${fdt_addr}" in script


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("release", NEWER, ids=lambda release: release.name)
def test_rauc_configuration_names_the_slots_and_the_keyring(
    machine: str, release: Release, read: Callable[..., Built], tmp_path: Path
) -> None:
    (tmp_path / "own-ca.pem").write_text("certificates")
    found = read(
        release, RAUC / "pycm-rauc-conf_1.0.bb", "__SKIPPED", "RPROVIDES:pycm-rauc-conf",
        variables=for_machine(machine, RAUC_KEYRING_FILE=str(tmp_path / "own-ca.pem")),
        tasks=("do_fetch", "do_unpack", "do_install"),
    )  # fmt: skip
    assert found.values["__SKIPPED"] is None
    assert found.words("RPROVIDES:pycm-rauc-conf") == ["virtual-rauc-conf"]
    parser = configparser.ConfigParser()
    parser.read(found.image / "etc/rauc/system.conf")
    slots = [parser[f"slot.{name}"]["device"] for name in ("rescue.0", "rootfs.0", "rootfs.1")]
    assert slots == [f"{MACHINES[machine]['disk']}{number}" for number in (3, 4, 5)]
    assert parser["system"]["compatible"] == f"Eclipse Leda ({machine})"
    keyring = found.image / "etc/rauc" / parser["keyring"]["path"]
    assert keyring.read_text() == "certificates"
    assert (
        f"/boot/uboot.env 0x0 {MACHINES[machine]['env']}" in (found.image / "etc/fw_env.config").read_text()
    )


def test_rauc_configuration_is_skipped_with_its_reason(read: Callable[..., Built]) -> None:
    recipe = RAUC / "pycm-rauc-conf_1.0.bb"
    assert "RAUC_KEYRING_FILE is not set" in read(NEWER[0], recipe, "__SKIPPED")["__SKIPPED"]
    variables = {"LAYERSERIES_CORENAMES": "kirkstone", "RAUC_KEYRING_FILE": "/ca.pem"}
    assert "kirkstone's rauc" in read(KIRKSTONE, recipe, "__SKIPPED", variables=variables)["__SKIPPED"]


@pytest.mark.parametrize("missing", ["RAUC_KEY_FILE", "RAUC_CERT_FILE", None])
def test_bundle_without_a_key_is_refused_before_the_image_is_built(
    missing: str | None, read: Callable[..., Built]
) -> None:
    keys = {"RAUC_KEY_FILE": "key.pem", "RAUC_CERT_FILE": "cert.pem"}
    variables = for_machine(
        "qemuarm64", DISTRO_VERSION="1", **{key: keys[key] for key in keys if key != missing}
    )
    bundle = IMAGES / "bundles/leda-bundle-pycm_1.0.bb"
    found = read(
        KIRKSTONE, bundle, "__SKIPPED", "RAUC_BUNDLE_COMPATIBLE", "RAUC_SLOT_rootfs", variables=variables
    )
    if missing:
        assert f"{missing} is not set" in found["__SKIPPED"]
    else:
        assert found.values["__SKIPPED"] is None
        assert found["RAUC_BUNDLE_COMPATIBLE"] == "Eclipse Leda (qemuarm64)"
        assert found["RAUC_SLOT_rootfs"] == "leda-image-pycm"
