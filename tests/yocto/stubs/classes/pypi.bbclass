# SPDX-License-Identifier: Apache-2.0
PYPI_PACKAGE ?= "${@d.getVar('PN').replace('python3-', '')}"
SRC_URI:prepend = "https://files.pythonhosted.org/packages/source/${@d.getVar('PYPI_PACKAGE')[0]}/${PYPI_PACKAGE}/${PYPI_PACKAGE}-${PV}.tar.gz "
S = "${WORKDIR}/${PYPI_PACKAGE}-${PV}"
