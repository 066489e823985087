# nooelint: oelint.var.suggestedvar.AUTHOR
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "Leda's minimal image with pycm, on a read-only root"
DESCRIPTION = "sdv-image-minimal with pycm in the place of Kanto container management and its state on the data partition."
HOMEPAGE = "https://github.com/eclipse-leda/pycm"
BUGTRACKER = "https://github.com/eclipse-leda/pycm/issues"
SECTION = "images"
CVE_PRODUCT = ""

# in meta-leda-distro, which has to be there for this file to be read
# nooelint: oelint.file.requirenotfound
require recipes-sdv-distro/images/sdv-image-minimal.bb

LICENSE = "Apache-2.0"

IMAGE_INSTALL:append = " packagegroup-pycm pycm-leda-data"
# nooelint: oelint.vars.outofcontext
IMAGE_FEATURES:append = " read-only-rootfs"
