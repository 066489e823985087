# SPDX-License-Identifier: Apache-2.0
# For this layer's recipes.
inherit pycm_sourceless

SUMMARY:${PN}-source = "The Python source, for tracebacks and type checkers"
PACKAGES =+ "${PN}-source"
FILES:${PN}-source += "${PYTHON_SOURCES}"

do_install:append:class-target() {
    pycm_sourceless
}
