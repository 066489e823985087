# SPDX-License-Identifier: Apache-2.0
require ${@bb.utils.contains('PYCM_PROVIDER', '1', 'packagegroup-sdv-core_pycm.inc', '', d)}
