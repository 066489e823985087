# SPDX-License-Identifier: Apache-2.0
"""Our spec of a plain container beside containerd's own default: everything that differs stands here with its reason."""

import json
import subprocess

import pytest

from pycm.model.container import Container, HostConfig
from pycm.oci.spec import HostFacts, build_spec
from pycm.oci.user import ProcessUser
from pycm.ports import ImageConfig

pytestmark = pytest.mark.integration

#: path in the spec -> (containerd's, ours), why
DIFFERENCES = {
    "ociVersion": ("1.0.2-dev", "1.0.2", "of the release that containerd 1.6 implements"),
    "process.terminal": (None, False, "said, where containerd leaves the default"),
    "process.args": (None, ["/app"], "the image's"),
    "process.env": (None, ["PATH=/bin", "HOSTNAME="], "the image's, and HOSTNAME"),
    "process.user.additionalGids": (None, [], "of the image's group file"),
    "hostname": (None, "", "the container's"),
    "hooks": (None, {}, "the container's"),
    "linux.devices": (None, [], "the container's"),
    "linux.cgroupsPath": ("/default", "/x", "of the container"),
}
#: Items of lists that only one side has.
ONLY_CONTAINERD = {
    "mounts": [
        "/run"
    ],  # a tmpfs there hides what an image or a mount has in /run; the original removes it too
    "linux.maskedPaths": [],
}
ONLY_OURS = {
    "mounts": [],
    "linux.maskedPaths": [
        "/sys/devices/virtual/powercap"
    ],  # later containerd 1.6: power figures leak secrets
}


def flat(value, path=""):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def plain():
    container = Container(id="c1", host_config=HostConfig(network_mode="bridge"))
    image = ImageConfig(entrypoint=("/app",), env=("PATH=/bin",))
    return build_spec(container, image, ProcessUser(), HostFacts(cgroups_path="/x"))


def test_nothing_differs_from_containerds_default_but_what_is_listed():
    done = subprocess.run(["ctr", "oci", "spec"], capture_output=True, check=True)
    theirs, ours = dict(flat(json.loads(done.stdout))), dict(flat(plain()))
    for path, only_ours in ONLY_OURS.items():
        theirs_list, ours_list = _named(theirs.pop(path)), _named(ours.pop(path))
        assert [name for name in theirs_list if name not in ours_list] == ONLY_CONTAINERD[path]
        assert [name for name in ours_list if name not in theirs_list] in (only_ours, [])
        assert all(theirs_list[name] == ours_list[name] for name in theirs_list.keys() & ours_list.keys())
    differing = {
        path: (theirs.get(path), ours.get(path))
        for path in theirs | ours
        if theirs.get(path) != ours.get(path)
    }
    assert differing == {path: (before, after) for path, (before, after, _) in DIFFERENCES.items()}


def _named(items):
    return {item["destination"] if isinstance(item, dict) else item: item for item in items}
