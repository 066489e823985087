# nooelint: oelint.var.suggestedvar.AUTHOR
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "Reading and setting of cgroup v1 controllers"
DESCRIPTION = "Interface descriptors for the files of the cgroup v1 controllers."
HOMEPAGE = "https://github.com/cloudsigma/cgroupspy"
BUGTRACKER = "https://github.com/cloudsigma/cgroupspy/issues"
SECTION = "devel/python"
LICENSE = "BSD-3-Clause"
LIC_FILES_CHKSUM = "file://LICENSE;md5=490066fd7cfd35eabc44075bb71627d4"

SRC_URI[sha256sum] = "8ee941c7ab9234a0b17a81b0b26487f7f1031f78b7a24cdd8eed1b5fa5970496"

CVE_PRODUCT = "cgroupspy"

inherit pypi setuptools3 pycm_bytecode

PYPI_PACKAGE = "cgroupspy"

RDEPENDS:${PN} = "python3-core python3-logging"

BBCLASSEXTEND = "native nativesdk"
