# nooelint: oelint.var.bbclassextend,oelint.var.suggestedvar.AUTHOR,oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "Container manager for vehicles and edge devices"
SUMMARY:${PN}-cli = "Command line of pycm"
SUMMARY:${PN}-conf = "Default configuration of pycm"
SUMMARY:${PN}-kanto = "Kanto's names for pycm's programs and unit"
DESCRIPTION = "Runs the containers of one device on top of containerd, in the place of Eclipse Kanto container management."
SECTION = "console/network"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# The repository that this layer lies in has the commit below. Another place, in local.conf:
# PYCM_GIT_URI = "git://HOST/pycm.git;protocol=https" and PYCM_GIT_BRANCH = "branch=main".
PYCM_GIT_URI ?= "git://${@os.path.realpath(d.getVar('FILE_DIRNAME') + '/../../..')};protocol=file"
PYCM_GIT_BRANCH ?= "nobranch=1"
# The commit says what the source is, wherever it lies: finished parts can be shared between machines.
PYCM_GIT_URI[vardepvalue] = ""
PYCM_GIT_BRANCH[vardepvalue] = ""
SRC_URI = "\
    ${PYCM_GIT_URI};${PYCM_GIT_BRANCH};destsuffix=${BP} \
    file://run-ptest \
"
SRCREV = "d88354462cf9e779c1fa7865d04d2751351efe98"

# With the vendor: PyPI has another pycm.
CVE_PRODUCT = "leda-pycm:pycm"

inherit python_flit_core pycm_bytecode systemd ptest

# Optional parts; each line is a part's run-time dependencies.
PACKAGECONFIG ?= "cgroup1 host-figures network twin"
PACKAGECONFIG[cgroup1] = ",,,python3-cgroupspy"
PACKAGECONFIG[host-figures] = ",,,python3-psutil"
PACKAGECONFIG[network] = ",,,${PYCM_CNI} iptables"
PACKAGECONFIG[twin] = ",,,python3-paho-mqtt"

# pycm.inc gives the name of a package with only the plugins that are used.
PYCM_CNI ?= "cni"
# The package with the configuration; an image may bring its own: PYCM_CONF = "my-conf".
PYCM_CONF ?= "pycm-conf"

PACKAGES =+ "${PN}-cli ${PN}-conf ${PN}-kanto"

do_install:append() {
    install -d ${D}${sysconfdir}/container-management ${D}${systemd_system_unitdir} ${D}${datadir}/pycm
    install -m 0644 ${S}/conf/config.toml ${D}${sysconfdir}/container-management/
    install -m 0644 ${S}/conf/pycm.service ${D}${systemd_system_unitdir}/
    # The wheel has Kanto's names for programs. In an image they are links, in a package of their own, so that pycm shares no file with
    # Kanto's package.
    mv ${D}${bindir}/container-management ${D}${bindir}/pycmd
    ln -s pycmd ${D}${bindir}/container-management
    ln -sf pycm ${D}${bindir}/kanto-cm
    ln -s pycm.service ${D}${systemd_system_unitdir}/container-management.service
    # Small configurations of what stands beside pycm, for images that want to use them.
    install -m 0644 ${S}/conf/containerd.toml ${S}/conf/mosquitto.conf ${D}${datadir}/pycm/
}

do_install_ptest() {
    install -d ${D}${PTEST_PATH}/tests
    cp -r --no-preserve=ownership ${S}/tests/unit ${S}/tests/support ${S}/tests/vectors ${D}${PTEST_PATH}/tests/
    # pages and files that tests compare with
    cp -r --no-preserve=ownership ${S}/docs ${S}/conf ${D}${PTEST_PATH}/
    # these are about the repository: its scripts, its source, its other tests
    rm -r ${D}${PTEST_PATH}/tests/unit/scripts ${D}${PTEST_PATH}/tests/unit/agent
    rm ${D}${PTEST_PATH}/tests/unit/containerd/test_containerd_proto.py
}

# The command line's files are all of pycm/cli but those that the agent's own program imports.
PACKAGE_PREPROCESS_FUNCS += "pycm_command_line"
python pycm_command_line() {
    place = d.expand("${PYTHON_SITEPACKAGES_DIR}/pycm/cli/")
    agent = {"__init__.pyc", "daemon.pyc", "line.pyc", "main.pyc"}
    files = sorted(set(os.listdir(d.getVar("D") + place)) - agent)
    d.appendVar(d.expand("FILES:${PN}-cli"), "".join(" " + place + name for name in files))
}
pycm_command_line[doc] = "Gives the files of the command line to its package"

FILES:${PN}-cli += "${bindir}/pycm"
FILES:${PN}-conf += "${sysconfdir}/container-management"
FILES:${PN}-kanto += "\
    ${bindir}/container-management \
    ${bindir}/kanto-cm \
    ${systemd_system_unitdir}/container-management.service \
"

CONFFILES:${PN}-conf += "${sysconfdir}/container-management/config.toml"

SYSTEMD_SERVICE:${PN} = "pycm.service"

# Python's split packages for what the code imports: computed and compared by tests/yocto/test_yocto_dependencies.py.
# Those of the older releases have moved to python3-core, or into the library, since.
def pycm_python_packages(d):
    names = "asyncio compression crypt ctypes difflib email io json logging math netclient resource terminal"
    older = {"3.10": " fcntl shell tomli", "3.12": " fcntl shell"}
    names += older.get(d.getVar("PYTHON_BASEVERSION"), "")
    return " ".join("python3-" + name for name in names.split())

RDEPENDS:${PN} = "\
    ${@pycm_python_packages(d)} \
    python3-core \
    python3-grpclib \
    python3-h11 \
    python3-h2 \
    python3-protobuf \
    virtual-containerd \
    virtual-runc \
"
RDEPENDS:${PN}-cli = "${PN} python3-core"
RDEPENDS:${PN}-kanto = "${PN} ${PN}-cli"
RDEPENDS:${PN}-ptest += "${PN}-cli python3-hypothesis python3-pytest python3-pytest-asyncio"
# run-ptest runs by itself, too: no need to build a runner (the class asks for one, each release in its own way).
RDEPENDS:${PN}-ptest:remove = "ptest-runner"

# The configuration, and modules where the kernel has them as such; built in is as good.
RRECOMMENDS:${PN} += "\
    ${PYCM_CONF} \
    kernel-module-bridge \
    kernel-module-br-netfilter \
    kernel-module-ip-tables \
    kernel-module-iptable-filter \
    kernel-module-iptable-nat \
    kernel-module-nf-conntrack \
    kernel-module-nf-nat \
    kernel-module-overlay \
    kernel-module-veth \
    kernel-module-xt-addrtype \
    kernel-module-xt-comment \
    kernel-module-xt-conntrack \
    kernel-module-xt-mark \
    kernel-module-xt-masquerade \
    kernel-module-xt-multiport \
    kernel-module-xt-nat \
"
RRECOMMENDS:${PN}-ptest:remove = "ptest-runner"
RSUGGESTS:${PN}-ptest += "ptest-runner"

# The name under which images and packages ask for the original.
RPROVIDES:${PN}-kanto = "container-management"
RREPLACES:${PN}-kanto = "container-management"
RCONFLICTS:${PN}-kanto = "container-management"
# A conflict with a name is one with each package that provides it, and so with ${PN}-kanto. This name is provided by Kanto's package only.
# No RREPLACES of it: rpm knows no slash in Obsoletes.
RCONFLICTS:${PN}-conf = "kanto/container-management"
