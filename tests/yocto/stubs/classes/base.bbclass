# SPDX-License-Identifier: Apache-2.0
# Fetching and unpacking with BitBake's own fetchers, and PACKAGECONFIG.
python do_fetch() {
    bb.fetch2.Fetch(d.getVar("SRC_URI").split(), d).download()
}
addtask fetch

do_unpack[cleandirs] = "${WORKDIR}/unpacked"
python do_unpack() {
    bb.fetch2.Fetch(d.getVar("SRC_URI").split(), d).unpack(d.getVar("WORKDIR"))
}
addtask unpack after do_fetch

bbnote() {
    echo "NOTE: $*"
}

do_compile() {
    :
}
do_compile[dirs] = "${B}"
addtask compile after do_unpack

do_install() {
    :
}
do_install[dirs] = "${B}"
do_install[cleandirs] = "${D}"
addtask install after do_compile

python () {
    # PACKAGECONFIG[part] = "with,without,build dependencies,run-time dependencies"
    known = d.getVarFlags("PACKAGECONFIG") or {}
    for part in (d.getVar("PACKAGECONFIG") or "").split():
        if part not in known:
            bb.fatal("PACKAGECONFIG has %s, which the recipe does not know" % part)
        fields = d.expand(known[part]).split(",")
        if len(fields) > 3:
            d.appendVar("RDEPENDS:" + d.getVar("PN"), " " + fields[3])
}
