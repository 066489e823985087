# SPDX-License-Identifier: Apache-2.0
# For this layer's recipes: packages Python's byte code in the place of the source; the source is a package of its own.
#
# A root file system that is read-only, or with times of its own (REPRODUCIBLE_TIMESTAMP_ROOTFS), would compile every file at every
# start otherwise, and byte code beside the source takes flash twice. The code names its source below /usr/src, so that where
# PN-source is installed, tracebacks show lines, and where it is not, they still have names and numbers.

PYTHON_SOURCES = "${prefix}/src"

SUMMARY:${PN}-source = "The Python source, for tracebacks and type checkers"
PACKAGES =+ "${PN}-source"
FILES:${PN}-source += "${PYTHON_SOURCES}"

do_install:append:class-target() {
    site=${D}${PYTHON_SITEPACKAGES_DIR}
    find $site -name __pycache__ -prune -exec rm -r {} +
    # -b: beside the source, where the interpreter takes it without one. The hash in the place of a time makes it the same each time.
    # -I: nothing is imported from the recipe's source, where the build runs.
    nativepython3 -I -m compileall -q -b -f --invalidation-mode unchecked-hash -s $site -p ${PYTHON_SOURCES} $site
    find $site -type f \( -name '*.py' -o -name '*.pyi' -o -name '*.proto' \) | while read -r file; do
        install -d "$(dirname "${D}${PYTHON_SOURCES}${file#$site}")"
        mv "$file" "${D}${PYTHON_SOURCES}${file#$site}"
    done
}
