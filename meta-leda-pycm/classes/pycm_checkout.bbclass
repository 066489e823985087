# SPDX-License-Identifier: Apache-2.0
# For builds of the checkout that this layer lies in: says where it is, and warns about what a build of its last commit lacks.

PYCM_CHECKOUT ?= "${@os.path.realpath(bb.utils.which(d.getVar('BBPATH'), 'classes/pycm_checkout.bbclass') + '/../../..')}"
PYCM_CHECKOUT[doc] = "The top directory of the git work tree with this layer"

addhandler pycm_checkout_changes
pycm_checkout_changes[doc] = "Warns about changes that are not committed"
pycm_checkout_changes[eventmask] = "bb.event.ConfigParsed"
python pycm_checkout_changes() {
    checkout = d.getVar("PYCM_CHECKOUT")

    def git(*words):
        return bb.process.run(["git", "-C", checkout, *words])[0].rstrip()

    try:
        changes = git("status", "--porcelain")
        reference = git("for-each-ref", "--count=1", "--contains=HEAD")
    except bb.process.CmdError as error:
        bb.fatal("pycm: git cannot read %s: %s" % (checkout, error))
    if changes:
        bb.warnonce("pycm: %s has changes that are not committed and are not built:\n%s" % (checkout, changes))
    if not reference:
        # BitBake's fetcher updates its copy with refs/* only
        bb.warnonce("pycm: the last commit of %s is on no branch: git fetches it once, and no later one" % checkout)
}

# nooelint: oelint.task.noanonpython
python () {
    # kirkstone's fetcher refuses AUTOREV in a recipe whose version does not name the commit, unless this was called
    if d.getVar("PN") == "pycm":
        bb.fetch2.get_srcrev(d)
}
