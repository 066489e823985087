# nooelint: oelint.var.suggestedvar.AUTHOR,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "Eclipse Leda with pycm, on a read-only root"
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

# A RAUC bundle updates block by block (adaptive=block-hash-index): whole blocks of 4 KiB in the file system and in its size.
# nooelint: oelint.vars.specific
EXTRA_IMAGECMD:ext4 = "-b 4096 -i 4096"
IMAGE_ROOTFS_ALIGNMENT = "4"

inherit core-image pycm_image

# nooelint: oelint.task.noanonpython
python () {
    # without the include, packagegroup-sdv-core brings Kanto's daemon, which pycm-kanto conflicts with
    if d.getVar("PREFERRED_RPROVIDER_container-management") != "pycm":
        raise bb.parse.SkipRecipe("local.conf or the distribution lacks: require conf/distro/include/pycm.inc")
}
