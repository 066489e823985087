# SPDX-License-Identifier: Apache-2.0
python () {
    # a unit that is named must be one that is installed: looked at after do_install
    d.appendVarFlag("do_install", "postfuncs", " systemd_check")
}
python systemd_check() {
    import os
    for unit in (d.getVar("SYSTEMD_SERVICE:" + d.getVar("PN")) or "").split():
        if not os.path.exists(d.expand("${D}${systemd_system_unitdir}/") + unit):
            bb.fatal("the recipe names %s and does not install it" % unit)
}
