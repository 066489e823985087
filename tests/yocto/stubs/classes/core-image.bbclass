# SPDX-License-Identifier: Apache-2.0
# As openembedded-core's: features that are not known are an error, and commands run over the root file system when it is made.
IMAGE_FEATURES ?= ""
IMAGE_FEATURES[validitems] += "debug-tweaks read-only-rootfs empty-root-password allow-empty-password allow-root-login"
IMAGE_FEATURES += "${EXTRA_IMAGE_FEATURES}"
EXTRA_IMAGE_FEATURES ?= ""
IMAGE_CLASSES ??= ""
inherit ${IMAGE_CLASSES}

python () {
    known = d.getVarFlag("IMAGE_FEATURES", "validitems").split()
    unknown = set(d.getVar("IMAGE_FEATURES").split()) - set(known)
    if unknown:
        bb.fatal("IMAGE_FEATURES has %s, which is not known" % " ".join(unknown))
}

python do_rootfs() {
    # both forms: kirkstone separates commands by semicolons, newer releases by spaces
    for command in (d.getVar("ROOTFS_POSTPROCESS_COMMAND") or "").replace(";", " ").split():
        bb.build.exec_func(command, d)
}
addtask rootfs
