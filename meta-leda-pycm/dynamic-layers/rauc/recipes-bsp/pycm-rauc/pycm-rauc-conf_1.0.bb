# nooelint: oelint.var.bbclassextend,oelint.var.suggestedvar.AUTHOR,oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "RAUC's configuration for the disks of files/wic/leda-pycm-MACHINE.wks"
DESCRIPTION = "system.conf with the two root slots, the keyring that bundles are checked with, and where U-Boot's environment is."
SECTION = "base"
LICENSE = "Apache-2.0"
# nooelint: oelint.var.licenseremotefile
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

RAUC_KEYRING_FILE ??= ""
SRC_URI = "\
    file://fw_env.config.in \
    file://system.conf.in \
    ${@'file://' + d.getVar('RAUC_KEYRING_FILE') if d.getVar('RAUC_KEYRING_FILE') else ''} \
"
# The files lie directly where they are unpacked to; releases differ in the name of that place.
PYCM_FILES = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
S = "${PYCM_FILES}"

CVE_PRODUCT = ""

COMPATIBLE_MACHINE = "^(qemuarm64|raspberrypi4-64)$"
PACKAGE_ARCH = "${MACHINE_ARCH}"

PYCM_DISK ?= "/dev/vda"
PYCM_DISK:raspberrypi4-64 ?= "/dev/mmcblk0p"
PYCM_ENV_SIZE ?= "0x40000"
PYCM_ENV_SIZE:raspberrypi4-64 ?= "0x4000"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${sysconfdir}/rauc
    sed -e 's!@@MACHINE@@!${MACHINE}!' -e 's!@@DISK@@!${PYCM_DISK}!' ${PYCM_FILES}/system.conf.in > ${D}${sysconfdir}/rauc/system.conf
    sed -e 's!@@ENV_SIZE@@!${PYCM_ENV_SIZE}!' ${PYCM_FILES}/fw_env.config.in > ${D}${sysconfdir}/fw_env.config
    install -m 0644 ${PYCM_FILES}/${RAUC_KEYRING_FILE} ${D}${sysconfdir}/rauc/ca.cert.pem
}

# nooelint: oelint.task.noanonpython
python () {
    if "kirkstone" in (d.getVar("LAYERSERIES_CORENAMES") or "").split():
        raise bb.parse.SkipRecipe("kirkstone's rauc brings system.conf itself; Leda has one with the same slots")
    if not d.getVar("RAUC_KEYRING_FILE"):
        raise bb.parse.SkipRecipe("RAUC_KEYRING_FILE is not set: the certificates that bundles are checked with")
}

# rauc recommends it by this name
RPROVIDES:${PN} = "virtual-rauc-conf"
RCONFLICTS:${PN} = "rauc-conf"
