# SPDX-License-Identifier: Apache-2.0
# For images: the feature python-bytecode replaces the source of installed Python libraries by byte code, in this image only.
#
#     IMAGE_FEATURES += "python-bytecode"
#
# On a read-only root file system Python would compile each library at each start. The packages stay as they are, and so does every other
# image of the build. Python's own library has byte code beside its source already. A file that does not compile keeps its source.
# pycm.inc makes the feature known to all images (IMAGE_CLASSES); an image recipe can inherit this class itself.

IMAGE_FEATURES[validitems] += "python-bytecode"

PYCM_IMAGE_PYTHON = "${STAGING_BINDIR_NATIVE}/python3-native/python3"

pycm_image_bytecode() {
    for site in ${IMAGE_ROOTFS}${libdir}/python3*/site-packages; do
        [ -d "$site" ] || continue
        find "$site" -name __pycache__ -prune -exec rm -r {} +
        # -b and the hash: see pycm_bytecode.bbclass. The code names the source where it was on the device.
        ${PYCM_IMAGE_PYTHON} -I -m compileall -q -b -f --invalidation-mode unchecked-hash -s "${IMAGE_ROOTFS}" -p / "$site" ||
            bbnote "Python files that do not compile keep their source"
        find "$site" -type f -name '*.py' | while read -r file; do
            if [ -e "${file}c" ]; then
                rm "$file"
            fi
        done
    done
}
pycm_image_bytecode[doc] = "Replaces the source of Python libraries by byte code in the root file system"

ROOTFS_POSTPROCESS_COMMAND += "${@bb.utils.contains('IMAGE_FEATURES', 'python-bytecode', 'pycm_image_bytecode;', '', d)}"
do_rootfs[depends] += "${@bb.utils.contains('IMAGE_FEATURES', 'python-bytecode', 'python3-native:do_populate_sysroot', '', d)}"
