# SPDX-License-Identifier: Apache-2.0
require ${@bb.utils.contains('PYCM_KERNEL', '1', 'recipes-kernel/linux/linux_pycm.inc', '', d)}
