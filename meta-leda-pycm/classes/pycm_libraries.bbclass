# SPDX-License-Identifier: Apache-2.0
# For recipes of other layers that pycm runs with: PYCM_LIBRARIES. pycm.inc inherits this for all recipes.
inherit pycm_sourceless

# One for all of them: a list of functions with overrides would name each library three times.
# nooelint: oelint.task.noanonpython
python () {
    name = d.getVar("PN")
    if name in (d.getVar("PYCM_LIBRARIES") or "").split():
        d.prependVar("PACKAGES", name + "-source ")
        d.setVar("FILES:" + name + "-source", d.getVar("PYTHON_SOURCES"))
        d.appendVar("do_install", "\n    pycm_sourceless\n")
}
