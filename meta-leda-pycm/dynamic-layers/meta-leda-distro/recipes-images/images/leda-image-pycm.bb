# nooelint: oelint.var.suggestedvar.AUTHOR,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "Eclipse Leda with pycm: a disk image with two read-only root slots"
DESCRIPTION = "Leda's core packages with pycm in the place of Kanto container management and its state on the data partition."
SECTION = "images"
LICENSE = "Apache-2.0"
CVE_PRODUCT = ""

# As sdv-image-minimal, but none of its debug features: nobody gets in without a password or a key that you set
# (EXTRA_USERS_PARAMS, or a package of your own). A recipe that requires that image's could not take them out for good and still let
# kas-testimage.yml add what testimage needs.
IMAGE_FEATURES += "python-bytecode read-only-rootfs"
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    kernel-image \
    kernel-modules \
    packagegroup-sdv-core \
    packagegroup-pycm \
    pycm-leda-data \
    ${@bb.utils.contains('DISTRO_FEATURES', 'wifi', 'packagegroup-base-wifi', '', d)} \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"
# nooelint: oelint.vars.specific
IMAGE_INSTALL:append:raspberrypi4-64 = " ${@bb.utils.contains('DISTRO_FEATURES', 'wifi', 'packagegroup-sdv-rpi4wifi wpa-service', '', d)}"
IMAGE_LINGUAS = ""

INCOMPATIBLE_LICENSE = "AGPL-3.0* GPL-3.0* LGPL-3.0*"

# What a RAUC bundle holds. It updates block by block (adaptive=block-hash-index): whole blocks of 4 KiB in the file system and its size.
IMAGE_FSTYPES = "ext4"
# nooelint: oelint.vars.specific
EXTRA_IMAGECMD:ext4 = "-b 4096 -i 4096"
IMAGE_ROOTFS_ALIGNMENT = "4"

# The whole disk, for the machines with a layout in files/wic/: to start in QEMU, or to flash by its block map.
IMAGE_FSTYPES:append:qemuarm64 = " wic.qcow2"
# nooelint: oelint.vars.specific
IMAGE_FSTYPES:append:raspberrypi4-64 = " wic.bmap wic.bz2"
# the whole path: newer releases find files/wic by themselves and refuse the place where kirkstone looks
WKS_FILES = "${@bb.utils.which(d.getVar('BBPATH'), 'files/wic/leda-pycm-%s.wks' % d.getVar('MACHINE'))}"
# the data partition has what Leda puts there: descriptors in /data/var/containers/manifests
do_image_wic[depends] += "pycm-boot-script:do_deploy sdv-image-data:do_rootfs_wicenv"
# the machine's own script knows other slots, or none
IMAGE_BOOT_FILES:remove = "boot.scr"
IMAGE_BOOT_FILES:append = " pycm-boot.scr;boot.scr"

# runqemu: U-Boot finds kernel and root on the disk
QB_DEFAULT_FSTYPE = "wic.qcow2"
QB_DRIVE_TYPE = "/dev/vd"
QB_FSINFO = "wic:no-kernel-in-fs"
QB_ROOTFS_OPT = "-drive id=disk0,file=@ROOTFS@,if=none,format=qcow2 -device virtio-blk-device,drive=disk0"

inherit core-image pycm_image

# nooelint: oelint.task.noanonpython
python () {
    # without the include, packagegroup-sdv-core brings Kanto's daemon, which pycm-kanto conflicts with
    if d.getVar("PREFERRED_RPROVIDER_container-management") != "pycm":
        raise bb.parse.SkipRecipe("local.conf or the distribution lacks: require conf/distro/include/pycm.inc")
}
