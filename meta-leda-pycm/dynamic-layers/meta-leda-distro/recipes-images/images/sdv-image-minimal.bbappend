# SPDX-License-Identifier: Apache-2.0
require ${@'sdv-image_pycm.inc' if d.getVar('PYCM_DATA') else ''}
