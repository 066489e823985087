# nooelint: oelint.var.bbclassextend,oelint.var.suggestedvar.AUTHOR,oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "U-Boot script that chooses a root slot as RAUC wants it"
DESCRIPTION = "For the disks of files/wic/leda-pycm-MACHINE.wks; deployed as pycm-boot.scr, which the image copies to its boot partition."
SECTION = "bootloaders"
LICENSE = "Apache-2.0"
# nooelint: oelint.var.licenseremotefile
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

DEPENDS = "u-boot-mkimage-native"

SRC_URI = "file://boot.cmd.in"
# The file lies directly where it is unpacked to; releases differ in the name of that place.
PYCM_FILES = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
S = "${PYCM_FILES}"

CVE_PRODUCT = ""

COMPATIBLE_MACHINE = "^(qemuarm64|raspberrypi4-64)$"
INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit deploy kernel-arch nopackages

KERNEL_BOOTCMD ?= "booti"
# size of uboot.env, as U-Boot and fw_setenv of the machine have it
PYCM_ENV_SIZE ?= "0x40000"
PYCM_ENV_SIZE:raspberrypi4-64 ?= "0x4000"
# more words for the kernel: the Raspberry Pi's firmware turns the memory controller off
PYCM_BOOTARGS ?= ""
PYCM_BOOTARGS:raspberrypi4-64 ?= "cgroup_enable=memory cgroup_memory=1"

do_configure[noexec] = "1"
do_install[noexec] = "1"

do_compile() {
    sed -e 's/@@KERNEL_IMAGETYPE@@/${KERNEL_IMAGETYPE}/' \
        -e 's/@@KERNEL_BOOTCMD@@/${KERNEL_BOOTCMD}/' \
        -e 's/@@ENV_SIZE@@/${PYCM_ENV_SIZE}/' \
        -e 's/@@BOOTARGS@@/${PYCM_BOOTARGS}/' \
        ${PYCM_FILES}/boot.cmd.in > ${WORKDIR}/boot.cmd
    mkimage -A ${UBOOT_ARCH} -T script -C none -n "pycm" -d ${WORKDIR}/boot.cmd ${WORKDIR}/boot.scr
}

do_deploy() {
    install -m 0644 ${WORKDIR}/boot.scr ${DEPLOYDIR}/pycm-boot.scr
}
addtask deploy after do_compile before do_build
do_deploy[dirs] = "${DEPLOYDIR}"
