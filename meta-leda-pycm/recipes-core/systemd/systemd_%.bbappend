# SPDX-License-Identifier: Apache-2.0
require ${@bb.utils.contains('PYCM_CGROUP2', '1', 'systemd_pycm.inc', '', d)}
