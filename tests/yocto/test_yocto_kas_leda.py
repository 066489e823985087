# SPDX-License-Identifier: Apache-2.0
"""The effective local.conf of our kas files beside that of Leda's own: every difference has a written reason.

Where the trees are given only: PYCM_OE_TREES names a directory with kirkstone/{poky,meta-leda,leda-distro,...}.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kas_support import assigned, environment, local_conf, merged
from layer_support import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

TREES = os.environ.get("PYCM_OE_TREES")
LISTS = {"INHERIT", "USER_CLASSES", "BBMASK", "DISTRO_FEATURES", "LICENSE_FLAGS_ACCEPTED"}
"""Variables that are sets of words; any other is one value."""
KEYS = "Leda's example keys, by their path in meta-leda's clone: the two files of Leda's know other places"
# fmt: off
DEFAULT_FEATURES = (
    "acl", "argp", "ipv4", "ipv6", "largefile", "multiarch", "pci", "usbgadget", "usbhost", "vfat", "vulkan", "xattr",
)
REASONS = {
    # what our kas file sets and Leda's does not: (variable, word or "" for a single value): reason
    ("INHERIT", "+create-spdx"): "a bill of materials for each image; Leda has it in a kas file of its own, kas/oss-compliance/spdx.yaml",
    ("INHERIT", "+pycm_checkout"): "finds the checkout that is built",
    ("BBMASK", "+/poky/meta/recipes-devtools/llvm/"): "as in meta-leda's kas file; without it, 14 warnings about llvm's version",
    ("PYCM_GIT_URI", ""): "builds this checkout",
    ("PYCM_GIT_BRANCH", ""): "builds this checkout",
    ("SRCREV:pn-pycm", ""): "builds this checkout",
    # what Leda's set and ours does not
    ("INHERIT", "-archiver"): "leda-distro keeps the source archives of Leda's releases; meta-leda's kas file removes them, and so do we",
    ("INHERIT", "-buildstats"): "leda-distro measures its build machines",
    ("INHERIT", "-buildstats-summary"): "leda-distro measures its build machines",
    ("USER_CLASSES", "-buildstats"): "leda-distro measures its build machines",
    ("USER_CLASSES", "-buildstats-summary"): "leda-distro measures its build machines",
    ("CLOUDCONNECTOR_CERTIFICATE_CERTFILE", ""): "the recipe's default, named by meta-leda to silence a warning",
    ("CLOUDCONNECTOR_CERTIFICATE_KEYFILE", ""): "the recipe's default, named by meta-leda to silence a warning",
    ("RAUC_KEY_FILE", ""): KEYS,
    ("RAUC_CERT_FILE", ""): KEYS,
    ("RAUC_KEYRING_FILE", ""): KEYS,
    ("RAUC_KEYRING_URI", ""): KEYS,
    ("LICENSE_FLAGS_ACCEPTED", "+synaptics-killswitch"): "the Raspberry Pi's wireless firmware; without it BitBake refuses the image",
    **{
        ("DISTRO_FEATURES", f"+{word}"): "meta-leda's kas file adds wifi with +=, which drops the defaults of the distribution"
        for word in DEFAULT_FEATURES
    },
}
# fmt: on
PAIRS = (
    ("kas.yml", "leda-distro/kas/leda-qemuarm64.yaml"),
    ("kas-raspberrypi.yml", "leda-distro/kas/leda-raspberrypi4-64.yaml"),
    ("kas.yml", "meta-leda/.config.yaml"),
)


def differences(ours: dict[str, Any], ledas: dict[str, Any], trees: Path) -> set[tuple[str, str]]:
    """Compare each variable that one of the two files assigns, by its final value."""
    texts = [assigned(local_conf(config)) for config in (ours, ledas)]
    places = {"pycm": REPOSITORY, "meta-lts-mixins-rust": trees / "meta-lts-mixins"}
    with directory() as first, directory() as second:
        values = [environment(ours, trees, first, places), environment(ledas, trees, second, places)]
    found: set[tuple[str, str]] = set()
    names = {name.split(":append")[0].split(":remove")[0] for text in texts for name in text}
    for name in names - {"MACHINE", "DISTRO"}:
        # a value for one recipe only is not among the global ones
        mine, others = ((texts if ":" in name else values)[index].get(name) for index in (0, 1))
        if name in LISTS:
            words, other_words = set((mine or "").split()), set((others or "").split())
            found |= {(name, f"+{word}") for word in words - other_words}
            found |= {(name, f"-{word}") for word in other_words - words}
        elif mine != others:
            found.add((name, ""))
    return found


@contextmanager
def directory() -> Iterator[Path]:
    # not below pytest's directory, which only its owner may enter
    work = Path(tempfile.mkdtemp(prefix="pycm-kas-"))
    try:
        yield work
    finally:
        shutil.rmtree(work)


@pytest.mark.skipif(not TREES, reason="PYCM_OE_TREES is not set: no Leda to compare with")
def test_kas_files_differ_from_ledas_for_written_reasons_only(tools: Path) -> None:
    assert TREES
    trees = Path(TREES) / "kirkstone"
    found: set[tuple[str, str]] = set()
    for ours, ledas in PAIRS:
        found |= differences(merged(tools, REPOSITORY / ours), merged(tools, trees / ledas), trees)
    unexplained, stale = sorted(found - set(REASONS)), sorted(set(REASONS) - found)
    assert unexplained == []
    assert stale == []
