# SPDX-License-Identifier: Apache-2.0
do_install_ptest() {
    :
}
addtask install_ptest after do_install
