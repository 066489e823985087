# nooelint: oelint.var.bbclassextend,oelint.var.mandatoryvar.SRC_URI,oelint.var.suggestedvar.AUTHOR,oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "RAUC bundle with leda-image-pycm"
DESCRIPTION = "Updates the root slot that is not booted; Leda's own devices take it, too."
SECTION = "images"
LICENSE = "Apache-2.0"
CVE_PRODUCT = ""

inherit bundle

# the name in Leda's system.conf, and in the one of this layer
RAUC_BUNDLE_COMPATIBLE = "Eclipse Leda (${MACHINE})"
RAUC_BUNDLE_FORMAT = "verity"
RAUC_BUNDLE_SLOTS = "rootfs"
RAUC_BUNDLE_VERSION ?= "${DISTRO_VERSION}"
RAUC_SLOT_rootfs = "leda-image-pycm"
RAUC_SLOT_rootfs[adaptive] = "block-hash-index"
RAUC_SLOT_rootfs[fstype] = "ext4"

# The class would say so when the image has been built.
# nooelint: oelint.task.noanonpython
python () {
    for name in ("RAUC_KEY_FILE", "RAUC_CERT_FILE"):
        if not d.getVar(name):
            raise bb.parse.SkipRecipe("%s is not set: a bundle is signed with a key and its certificate" % name)
}
