# SPDX-License-Identifier: Apache-2.0
require ${@bb.utils.contains('PYCM_KERNEL', '1', 'rpi-cmdline_pycm.inc', '', d)}
