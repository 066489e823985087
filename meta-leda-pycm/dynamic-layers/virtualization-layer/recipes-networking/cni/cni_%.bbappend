# SPDX-License-Identifier: Apache-2.0
require ${@bb.utils.contains('PYCM_CNI', 'cni-pycm', 'cni_pycm.inc', '', d)}
