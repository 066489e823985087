# SPDX-License-Identifier: Apache-2.0
do_deploy() {
    :
}
addtask deploy
