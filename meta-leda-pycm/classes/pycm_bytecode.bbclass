# SPDX-License-Identifier: Apache-2.0
# Packages Python's byte code, made at build time.
#
# Files of the kind "unchecked-hash": the interpreter loads them without a look at the source. The usual kind holds the source's
# modification time, which images set to a time of their own (REPRODUCIBLE_TIMESTAMP_ROOTFS), so that on a read-only root every
# start would compile every file anew. -s and -p keep the build directory out of the files, so that they are the same each time.
do_install:append() {
    nativepython3 -m compileall -q -f --invalidation-mode unchecked-hash -s ${D} -p / ${D}${PYTHON_SITEPACKAGES_DIR}
}
