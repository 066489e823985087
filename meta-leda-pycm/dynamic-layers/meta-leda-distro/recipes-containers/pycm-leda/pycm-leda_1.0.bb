# nooelint: oelint.var.bbclassextend,oelint.var.suggestedvar.AUTHOR,oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "What pycm needs on an Eclipse Leda image"
SUMMARY:${PN}-data = "Keeps pycm's state on Leda's data partition"
SUMMARY:${PN}-conf = "pycm's configuration as Leda has Kanto's"
DESCRIPTION = "\
    The state on the data partition, since an update replaces a root slot with all on it, and what brings an older image's records there; \
    config.json for Leda's scripts, which has the agent start Leda's descriptors. \
"
SECTION = "console/network"
LICENSE = "Apache-2.0"
# nooelint: oelint.var.licenseremotefile
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

SRC_URI = "\
    file://config.json \
    file://data.mount \
    file://migrate-state \
    file://pycm-migrate-state.service \
"
# The files lie directly where they are unpacked to; releases differ in the name of that place.
PYCM_FILES = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
S = "${PYCM_FILES}"

CVE_PRODUCT = "leda-pycm:pycm"

inherit allarch

PACKAGES = "${PN}-data ${PN}-conf"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${sysconfdir}/container-management ${D}${systemd_system_unitdir}
    # the mount point: on a read-only root nobody else can make it
    install -d ${D}${localstatedir}/lib/container-management
    install -m 0644 ${PYCM_FILES}/config.json ${D}${sysconfdir}/container-management/
    # A mount unit is named by its path, and systemd writes a dash in a path as \x2d.
    install -m 0644 ${PYCM_FILES}/data.mount '${D}${systemd_system_unitdir}/var-lib-container\x2dmanagement.mount'
    # The agent's unit wants the other one, which is ordered before it; a read-only root has no place to enable a unit later.
    install -d ${D}${libexecdir}/pycm ${D}${systemd_system_unitdir}/pycm.service.wants
    install -m 0755 ${PYCM_FILES}/migrate-state ${D}${libexecdir}/pycm/
    install -m 0644 ${PYCM_FILES}/pycm-migrate-state.service ${D}${systemd_system_unitdir}/
    ln -s ../pycm-migrate-state.service ${D}${systemd_system_unitdir}/pycm.service.wants/
}

FILES:${PN}-data += "${libexecdir}/pycm ${systemd_system_unitdir} ${localstatedir}/lib/container-management"
FILES:${PN}-conf += "${sysconfdir}/container-management"
CONFFILES:${PN}-conf += "${sysconfdir}/container-management/config.json"

RDEPENDS:${PN}-data = "pycm"
# pycm-conf: config.toml would win over config.json. kanto-auto-deployer: both would start the same descriptors.
# Kanto's package has a config.json, too; by this name nobody else is meant.
RCONFLICTS:${PN}-conf = "kanto-auto-deployer kanto/container-management pycm-conf"
