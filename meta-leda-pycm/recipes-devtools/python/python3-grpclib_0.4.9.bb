# nooelint: oelint.var.suggestedvar.AUTHOR
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "gRPC for asyncio in pure Python"
SUMMARY:${PN}-plugin = "Plug-in of protoc that writes grpclib's stubs"
DESCRIPTION = "gRPC client and server on top of h2, without a native library."
HOMEPAGE = "https://github.com/vmagamedov/grpclib"
BUGTRACKER = "https://github.com/vmagamedov/grpclib/issues"
SECTION = "devel/python"
LICENSE = "BSD-3-Clause"
LIC_FILES_CHKSUM = "file://LICENSE.txt;md5=deeb83c7ab9e9426e1b6995eff3ea86a"

SRC_URI[sha256sum] = "cc589c330fa81004c6400a52a566407574498cb5b055fa927013361e21466c46"

CVE_PRODUCT = "grpclib"

inherit pypi python_setuptools_build_meta pycm_bytecode

PYPI_PACKAGE = "grpclib"

# The plug-ins of protoc are for a developer's machine.
PACKAGES =+ "${PN}-plugin"
FILES:${PN}-plugin += "${bindir} ${PYTHON_SITEPACKAGES_DIR}/grpclib/plugin"

# dataclasses is in python3-profile on kirkstone, in python3-core later.
RDEPENDS:${PN} = "\
    python3-asyncio \
    python3-core \
    python3-h2 \
    python3-io \
    python3-logging \
    python3-multidict \
    python3-netclient \
    ${@bb.utils.contains('PYTHON_BASEVERSION','3.10','python3-profile','',d)} \
"
RDEPENDS:${PN}-plugin = "${PN} python3-core python3-protobuf"

BBCLASSEXTEND = "native nativesdk"
