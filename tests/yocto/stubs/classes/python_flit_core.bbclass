# SPDX-License-Identifier: Apache-2.0
WHEELS = "${WORKDIR}/dist"

do_compile() {
    nativepython3 -c "import flit_core.buildapi as api; api.build_wheel('${WHEELS}')"
}
do_compile[cleandirs] = "${WHEELS}"

do_install() {
    nativepython3 -m installer --interpreter "/usr/bin/env python3" --destdir=${D} ${WHEELS}/*.whl
}
export PYTHON_SITEPACKAGES_DIR
