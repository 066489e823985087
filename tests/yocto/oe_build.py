# SPDX-License-Identifier: Apache-2.0
"""Builds packages of this layer with a release's own BitBake and openembedded-core's classes, offline, without a toolchain.

What makes that possible: none of openembedded-core's recipes is read (BBMASK), what the recipe depends on counts as provided, host
programs stand for native recipes, and Debian's pseudo for OE's. Packages come out as they would from a full build, in each of the three
formats; only whether the dependencies exist, and the version of the byte code, are not shown.

Needs on Debian: chrpath cpio diffstat file gawk git libpseudo locales (with en_US.UTF-8) lz4 patch pseudo python3-venv rpm wget xz-utils
zstd. Debian has no opkg-utils: OPKG_BUILD stands for its one program.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from layer_support import FORMATS, HERE, LAYER, Release, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USER = 65534  # nobody, and nogroup: BitBake refuses to run as root
BACKEND = {
    "kirkstone": ("flit_core==3.7.1", "installer==0.5.1", "setuptools==59.5.0", "wheel==0.37.1"),
    "scarthgap": (
        "flit_core==3.9.0",
        "installer==0.7.0",
        "setuptools==69.1.1",
        "wheel==0.42.0",
        "build==1.1.1",
    ),
    "wrynose": (
        "flit_core==3.12.0",
        "installer==0.7.0",
        "setuptools==82.0.1",
        "wheel==0.46.3",
        "build==1.4.0",
    ),
}
"""What each release builds Python packages with."""
COLLECTIONS = (
    "openembedded-layer",
    "meta-python",
    "networking-layer",
    "virtualization-layer",
    "meta-leda-distro",
    "stand-in",
)
NATIVE = """
    virtual/fakeroot-native pseudo-native quilt-native patch-replacement-native patch-native dpkg-native opkg-utils-native rpm-native
    dwarfsrcfiles-native xz-native zstd-native systemd-systemctl-native python3-native python3-installer-native
    python3-setuptools-native python3-wheel-native python3-flit-core-native python3-build-native python3-packaging-native
    binutils-cross-aarch64 gcc-cross-aarch64
"""
# The name is given: PREFERRED_PROVIDER_virtual/fakeroot-native is pseudo-native.
STAND_IN = f"""
SUMMARY = "Programs of this machine in the place of native recipes"
LICENSE = "CLOSED"
INHIBIT_DEFAULT_DEPS = "1"
inherit native
PROVIDES = "{" ".join(NATIVE.split())}"
deltask do_fetch
deltask do_unpack
deltask do_patch
deltask do_configure
deltask do_compile
deltask do_install
deltask do_populate_lic
do_populate_sysroot[depends] = ""
"""
LAYER_CONF = """
BBPATH .= ":${{LAYERDIR}}"
BBFILES += "${{LAYERDIR}}/recipes-*/*/*.bb"
BBFILE_COLLECTIONS += "{name}"
BBFILE_PATTERN_{name} = "^${{LAYERDIR}}/"
BBFILE_PATTERN_IGNORE_EMPTY_{name} = "1"
BBFILE_PRIORITY_{name} = "1"
LAYERSERIES_COMPAT_{name} = "kirkstone scarthgap wrynose"
"""
# An ipk is what a deb is: an ar archive of control.tar and data.tar. The names are not looked at, since opkg allows more than dpkg.
OPKG_BUILD = """\
#!/bin/sh -e
while [ $# -gt 2 ]; do shift; done
field() { sed -n "s/^$1: //p" "$tree/DEBIAN/control"; }
tree=$(mktemp -d)
cp -a "$1/." "$tree"
mv "$tree/CONTROL" "$tree/DEBIAN"
dpkg-deb --nocheck -Zxz --build "$tree" "$2/$(field Package)_$(field Version)_$(field Architecture).ipk"
rm -r "$tree"
"""
IGNORED = """
    /usr/ /etc/ /lib /dev/ /run/ ${T} ${WORKDIR}/recipe-sysroot ${SSTATE_DIR} ${STAMPS_DIR} ${TMPDIR}/sstate-control ${TMPDIR}/buildstats
    ${TMPDIR}/sysroots-components ${TMPDIR}/pkgdata ${WORKDIR}/deploy- ${WORKDIR}/sstate-build-package_
    ${WORKDIR}/sstate-install-package_ ${WORKDIR}/pkgdata-sysroot ${DEPLOY_DIR} ${TOPDIR}/cache ${COREBASE}/scripts
"""
PROVIDED = """
    ^python3(?!.*-native).* ^virtual/(?!fakeroot).* ^virtual-.* ^cni.* ^iptables.* systemd ^systemd-(?!systemctl).* ^glibc.* base-passwd
    ^shadow.* ^update-rc.d.* ^kernel-module-.* ^ca-certificates.* ^mosquitto.*
"""


def local_conf(release: Release, core: Path, tools: str, variables: Mapping[str, str]) -> str:
    opted_out = (
        "DISTRO_FEATURES_OPTED_OUT" if release.name == "wrynose" else "DISTRO_FEATURES_BACKFILL_CONSIDERED"
    )
    pseudo = (
        "PSEUDO_IGNORE_PATHS=${@oe.path.canonicalize(d.getVar('PSEUDO_IGNORE_PATHS'))} PSEUDO_PREFIX=/usr"
    )
    settings = {
        "MACHINE": "qemuarm64",
        "DISTRO": "nodistro",
        "PACKAGE_CLASSES": "package_deb package_rpm package_ipk",
        "DISTRO_FEATURES:append": " ptest systemd usrmerge",
        "VIRTUAL-RUNTIME_init_manager": "systemd",
        opted_out: "sysvinit",
        "BB_NO_NETWORK": "1",
        "BB_NUMBER_THREADS": "2",
        "BB_NUMBER_PARSE_THREADS": "2",
        "BB_DISKMON_DIRS": "",
        "BB_HASHSERVE": "",
        "BB_SIGNATURE_HANDLER": "OEBasicHash",
        "CONNECTIVITY_CHECK_URIS": "",
        "SANITY_TESTED_DISTROS": "",
        "INHERIT:remove": "uninative",
        # the layer's bbappends and images are for recipes and classes that are not read here, or that the stub layers lack
        "BBMASK": f"{core}/meta/recipes- meta-leda-pycm/.*bbappend /recipes-images/",
        "ASSUME_PROVIDED:append": " " + " ".join(PROVIDED.split()),
        "HOSTTOOLS:append": f" {tools}",
        "SKIP_FILEDEPS": "1",
        "ERROR_QA:remove": "build-deps",
        "WARN_QA:remove": "build-deps",
        "PSEUDO_IGNORE_PATHS": ",".join(IGNORED.split()),
        "FAKEROOTCMD": "/usr/bin/pseudo",
        "FAKEROOTENV": f"{pseudo} PSEUDO_LOCALSTATEDIR=${{PSEUDO_LOCALSTATEDIR}} PSEUDO_PASSWD=${{PSEUDO_PASSWD}} "
        "PSEUDO_NOSYMLINKEXP=1 PSEUDO_DISABLED=0",
        "FAKEROOTBASEENV": f"{pseudo} PSEUDO_BINDIR=/usr/bin PSEUDO_LIBDIR=/usr/lib/x86_64-linux-gnu/pseudo PSEUDO_DISABLED=1 "
        "PYTHONDONTWRITEBYTECODE=1",
        **variables,
    }  # fmt: skip
    lines = [f'{name} = "{value}"' for name, value in settings.items()]
    return "\n".join(['CONF_VERSION = "2"', *lines, "export PYTHON_SITEPACKAGES_DIR", ""])


def prepare(release: Release, core: Path, work: Path, variables: Mapping[str, str]) -> None:
    for name in COLLECTIONS:
        (work / name / "conf").mkdir(parents=True)
        (work / name / "conf/layer.conf").write_text(LAYER_CONF.format(name=name))
    recipes = work / "stand-in/recipes-stand-in/native"
    recipes.mkdir(parents=True)
    (recipes / "pseudo-native.bb").write_text(STAND_IN)
    shutil.copytree(LAYER, work / "meta-leda-pycm")
    run("/usr/bin/python3", "-m", "venv", work / "python")
    run(work / "python/bin/pip", "-q", "--disable-pip-version-check", "install", *BACKEND[release.name])
    (work / "bin").mkdir()
    shutil.copy2(HERE / "nativepython3.py", work / "bin/nativepython3.py")
    native = work / "bin/nativepython3"
    native.write_text(f'#!/bin/sh\nexec {work}/python/bin/python3 {work}/bin/nativepython3.py "$@"\n')
    native.chmod(0o755)
    opkg_build = work / "bin/opkg-build"
    opkg_build.write_text(OPKG_BUILD)
    opkg_build.chmod(0o755)
    tools = "nativepython3 dpkg-deb rpmbuild rpm opkg-build"
    if (work / "python/bin/pyproject-build").exists():
        (work / "bin/pyproject-build").symlink_to(work / "python/bin/pyproject-build")
        tools += " pyproject-build"
    layers = [core / "meta", *(work / name for name in COLLECTIONS), work / "meta-leda-pycm"]
    conf = work / "build/conf"
    conf.mkdir(parents=True)
    (conf / "bblayers.conf").write_text(
        'LCONF_VERSION = "7"\nBBPATH = "${TOPDIR}"\nBBFILES ?= ""\n'
        f'BBLAYERS = "{" ".join(map(str, layers))}"\n'
    )
    (conf / "local.conf").write_text(local_conf(release, core, tools, variables))
    (work / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")


def build(
    release: Release, trees: Path, work: Path, variables: Mapping[str, str], *targets: str
) -> dict[str, dict[str, Path]]:
    """The packages of *targets*: format to name to file. *trees* holds RELEASE/openembedded-core and RELEASE/bitbake."""
    core, bitbake = trees / release.name / "openembedded-core", trees / release.name / "bitbake"
    prepare(release, core, work, variables)
    as_root = os.getuid() == 0
    if as_root:
        run("chown", "-R", f"{USER}:{USER}", work)
    environment = {
        "HOME": str(work),
        "USER": "nobody",
        "LANG": "en_US.UTF-8",
        "PATH": f"{work}/bin:{core}/scripts:{bitbake}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "BBPATH": str(work / "build"),
        "BUILDDIR": str(work / "build"),
    }
    identity: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if as_root else {}
    done = subprocess.run(
        ["bitbake", *targets], cwd=work / "build", env=environment, **identity,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    named = [line for line in done.stdout.splitlines() if "WARNING" in line and "meta-leda-pycm" in line]
    assert named == []
    return {
        kind: {
            re.split("_|-[0-9]", path.name)[0]: path
            for path in (work / "build").glob(f"tmp*/deploy/{kind}/*/*.{kind}")
        }
        for kind in FORMATS
    }
