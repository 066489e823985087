# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime spec of a container: what each part of the description changes."""

import pytest

from pycm.errors import InvalidInputError
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    Hook,
    HostConfig,
    Image,
    IOConfig,
    MountPoint,
    Resources,
    Ulimit,
)
from pycm.model.validation import CAPABILITIES
from pycm.oci.machine import Device
from pycm.oci.spec import (
    DEFAULT_CAPABILITIES,
    DEFAULT_PATH,
    MASKED_PATHS,
    READONLY_PATHS,
    HostFacts,
    build_spec,
    check_cpus,
    update_resources,
)
from pycm.oci.user import ProcessUser
from pycm.ports import ImageConfig

IMAGE = ImageConfig(entrypoint=("/app",), cmd=("--default",), env=("PATH=/bin", "LANG=C"))
FACTS = HostFacts(cgroups_path="/kanto-cm/c1")
GPIO = Device("/dev/gpio", "c", 254, 3, 0o660, 0, 5, "rw")
KINDS = ("bounding", "effective", "permitted")


def spec(*, image=IMAGE, user=ProcessUser(), facts=FACTS, host=None, **fields):  # noqa: B008  frozen
    host = HostConfig(network_mode="host", **(host or {}))
    return build_spec(
        Container(id="c1", host_name="box", image=Image(name="r.test/a:1"), host_config=host, **fields),
        image,
        user,
        facts,
    )


# ── the process ──


@pytest.mark.parametrize(
    ("entrypoint", "image_cmd", "cmd", "args"),
    [
        (("/app",), ("-a",), (), ["/app", "-a"]),
        (("/app",), ("-a",), ("-b", "c"), ["/app", "-b", "c"]),
        ((), ("/bin/sh",), (), ["/bin/sh"]),
        ((), ("/bin/sh",), ("/bin/true",), ["/bin/true"]),
        (("/app",), (), (), ["/app"]),
    ],
)
def test_the_arguments_are_the_entrypoint_and_the_containers_cmd_or_the_images(
    entrypoint, image_cmd, cmd, args
):
    image = ImageConfig(entrypoint=entrypoint, cmd=image_cmd)
    assert spec(image=image, config=ContainerConfiguration(cmd=cmd))["process"]["args"] == args


def test_without_any_command_the_image_is_named():
    with pytest.raises(InvalidInputError, match=r"no command to run: image r\.test/a:1"):
        spec(image=ImageConfig())


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((), ["PATH=/bin", "LANG=C", "HOSTNAME=box"]),
        (("A=1", "B=x=y", "C="), ["PATH=/bin", "LANG=C", "HOSTNAME=box", "A=1", "B=x=y", "C="]),
        (("LANG=de", "HOSTNAME=other"), ["PATH=/bin", "LANG=de", "HOSTNAME=other"]),
        (("LANG", "HOSTNAME", "UNKNOWN"), ["PATH=/bin"]),
        (("A=1", "A"), ["PATH=/bin", "LANG=C", "HOSTNAME=box"]),
    ],
)
def test_the_containers_variables_replace_add_and_take_away(own, expected):
    assert spec(config=ContainerConfiguration(env=own))["process"]["env"] == expected


def test_an_image_without_variables_gets_a_path_and_a_terminal_gets_its_kind():
    process = spec(image=ImageConfig(cmd=("sh",)), io_config=IOConfig(tty=True))["process"]
    assert process["env"] == [f"PATH={DEFAULT_PATH}", "HOSTNAME=box", "TERM=xterm"]
    assert process["terminal"] is True
    assert spec()["process"]["terminal"] is False


def test_user_directory_and_limits():
    process = spec(user=ProcessUser(7, 8, (9, 10)), image=ImageConfig(cmd=("x",), working_dir="/srv"))[
        "process"
    ]
    assert process["user"] == {"uid": 7, "gid": 8, "additionalGids": [9, 10]}
    assert process["cwd"] == "/srv"
    assert spec()["process"]["cwd"] == "/"
    assert process["noNewPrivileges"] is True
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]


def test_extra_capabilities_are_added_once():
    caps = spec(host={"extra_capabilities": ("CAP_NET_ADMIN", "CAP_CHOWN")})["process"]["capabilities"]
    assert set(caps) == set(KINDS)
    for kind in KINDS:
        assert caps[kind] == [*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"]


# ── mounts ──


def test_mounts_come_after_the_base_and_the_network_files_last():
    mounts = spec(
        mount_points=(
            MountPoint(source="/data", destination="/mnt", propagation_mode="rshared"),
            MountPoint(source="/run", destination="/run", propagation_mode="rprivate"),
        ),
        hosts_path="/h/hosts",
        hostname_path="/h/hostname",
        resolv_conf_path="/h/resolv.conf",
    )["mounts"]
    binds = [(m["source"], m["destination"], m["options"]) for m in mounts if m["type"] == "bind"]
    assert binds == [
        ("/data", "/mnt", ["rbind", "rshared"]),
        ("/run", "/run", ["rbind", "rprivate"]),
        ("/h/resolv.conf", "/etc/resolv.conf", ["rbind", "rprivate"]),
        ("/h/hostname", "/etc/hostname", ["rbind", "rprivate"]),
        ("/h/hosts", "/etc/hosts", ["rbind", "rprivate"]),
    ]
    assert mounts[-5:] == [m for m in mounts if m["type"] == "bind"]


def test_the_base_mounts_have_no_tmpfs_on_run_and_a_sysfs_for_reading():
    mounts = {m["destination"]: m for m in spec()["mounts"]}
    assert list(mounts) == ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"]
    assert "ro" in mounts["/sys"]["options"]


# ── linux ──


def test_host_mode_shares_the_network_namespace_and_bridge_mode_has_its_own():
    assert [n["type"] for n in spec()["linux"]["namespaces"]] == ["pid", "ipc", "uts", "mount"]
    container = Container(id="c1", host_config=HostConfig(network_mode="bridge"))
    new = build_spec(container, IMAGE, ProcessUser(), FACTS)["linux"]["namespaces"]
    assert new[-1] == {"type": "network"}
    facts = HostFacts(cgroups_path="/x", network_namespace="/run/netns/1")
    made = build_spec(container, IMAGE, ProcessUser(), facts)["linux"]["namespaces"]
    assert made[-1] == {"type": "network", "path": "/run/netns/1"}


def test_mapped_devices_are_made_and_allowed():
    linux = spec(facts=HostFacts(cgroups_path="/x", devices=(GPIO,)))["linux"]
    assert linux["devices"] == [
        {
            "path": "/dev/gpio",
            "type": "c",
            "major": 254,
            "minor": 3,
            "fileMode": 0o660,
            "uid": 0,
            "gid": 5,
        }
    ]
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 254, "minor": 3, "access": "rw"},
    ]


def test_privileged_lifts_what_is_closed_but_keeps_no_new_privileges():
    facts = HostFacts(cgroups_path="/x", devices=(GPIO,))
    privileged = spec(host={"privileged": True}, facts=facts)
    linux = privileged["linux"]
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert [d["path"] for d in linux["devices"]] == ["/dev/gpio"]
    assert "maskedPaths" not in linux
    assert "readonlyPaths" not in linux
    assert privileged["process"]["capabilities"]["effective"] == list(CAPABILITIES)
    assert privileged["process"]["noNewPrivileges"] is True
    assert not any("ro" in mount["options"] for mount in privileged["mounts"])
    assert spec()["linux"]["maskedPaths"] == list(MASKED_PATHS)
    assert spec()["linux"]["readonlyPaths"] == list(READONLY_PATHS)


def test_a_kernel_that_knows_fewer_capabilities_is_asked_for_no_more():
    facts = HostFacts(cgroups_path="/x", capabilities=("CAP_CHOWN",))
    caps = spec(host={"privileged": True}, facts=facts)["process"]["capabilities"]
    assert caps["bounding"] == ["CAP_CHOWN"]


@pytest.mark.parametrize("path", ["/kanto-cm/c1", "system.slice:kanto-cm:c1"])
def test_the_cgroup_path_is_handed_on(path):
    assert spec(facts=HostFacts(cgroups_path=path))["linux"]["cgroupsPath"] == path


def test_hooks_go_to_their_moment_and_unknown_ones_nowhere():
    hooks = tuple(
        Hook(path=f"/h{kind}", args=("h", "x"), env=("A=1",), timeout=3, type=kind) for kind in range(4)
    )
    made = spec(hooks=hooks)["hooks"]
    assert made == {
        name: [{"path": f"/h{kind}", "args": ["h", "x"], "env": ["A=1"], "timeout": 3}]
        for kind, name in enumerate(("prestart", "poststart", "poststop"))
    }
    assert spec()["hooks"] == {}


# ── memory ──


@pytest.mark.parametrize(
    ("resources", "memory"),
    [
        (None, None),
        (Resources(), None),
        (Resources(memory="0M"), None),
        (Resources(memory="200M", memory_swap="400M"), {"limit": 209715200, "swap": 419430400}),
        (Resources(memory="1.5g", memory_swap="-1"), {"limit": 1610612736, "swap": -1}),
        (Resources(memory_reservation="3 k"), {"reservation": 3072}),
    ],
)
def test_only_limits_that_are_set_are_named(resources, memory):
    assert spec(host={"resources": resources})["linux"]["resources"].get("memory") == memory


@pytest.mark.parametrize(
    ("old", "new", "memory"),
    [
        (None, Resources(memory="10M"), {"limit": 10485760}),
        (Resources(memory="10M"), None, {"limit": -1, "swap": -1}),
        (Resources(memory_reservation="5M"), Resources(), {"reservation": -1}),
        (
            Resources(memory="10M", memory_swap="20M"),
            Resources(memory="10M"),
            {"limit": 10485760, "swap": -1},
        ),
        (
            Resources(memory="10M"),
            Resources(memory="20M", memory_swap="-1"),
            {"limit": 20971520, "swap": -1},
        ),
        (None, None, {}),
    ],
)
def test_an_update_lifts_what_is_no_longer_set_and_leaves_what_never_was(old, new, memory):
    assert update_resources(old, new) == {"memory": memory}


# ── CPU time and processes ──


def test_limits_of_cpu_time_and_processes_are_given_as_the_kernel_counts_them():
    limited = Resources(cpus="1.5", cpu_shares=512, cpuset_cpus="0-1", pids_limit=64)
    made = spec(host={"resources": limited})["linux"]["resources"]
    assert made["cpu"] == {"quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0-1"}
    assert made["pids"] == {"limit": 64}
    assert spec()["linux"]["resources"].keys() == {"devices"}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (None, Resources(cpus="0.5"), {"memory": {}, "cpu": {"quota": 50_000, "period": 100_000}}),
        (Resources(cpus="0.5"), None, {"memory": {}, "cpu": {"quota": -1, "period": 100_000}}),
        (
            Resources(cpu_shares=2, cpuset_cpus="1"),
            None,
            {"memory": {}, "cpu": {"shares": 1024, "cpus": "0-3"}},
        ),
        (Resources(pids_limit=9), Resources(), {"memory": {}, "pids": {"limit": -1}}),
        (Resources(pids_limit=9), Resources(pids_limit=8), {"memory": {}, "pids": {"limit": 8}}),
    ],
)
def test_an_update_lifts_limits_of_cpu_time_and_processes(old, new, changed):
    assert update_resources(old, new, "0-3") == changed


# ── additions ──


def test_ulimits_are_laid_over_the_default():
    wanted = (Ulimit(name="nofile", soft=64, hard=128), Ulimit(name="core", soft=0, hard=-1))
    assert spec(host={"ulimits": wanted})["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
    ]


def test_the_containers_working_directory_goes_before_the_images():
    image = ImageConfig(cmd=("x",), working_dir="/of-image")
    own = ContainerConfiguration(working_dir="/own")
    assert spec(image=image, config=own)["process"]["cwd"] == "/own"
    assert spec(image=image)["process"]["cwd"] == "/of-image"


def test_a_read_only_mount_says_so():
    mounts = (MountPoint(source="/a", destination="/b", propagation_mode="rprivate", read_only=True),)
    (mount,) = [m for m in spec(mount_points=mounts)["mounts"] if m["destination"] == "/b"]
    assert mount["options"] == ["rbind", "rprivate", "ro"]


@pytest.mark.parametrize(("wanted", "online"), [("", "0-3"), ("0-2,3", "0-3"), ("0", "0"), ("9", "")])
def test_cpus_that_are_there_can_be_used(wanted: str, online: str) -> None:
    check_cpus(Resources(cpuset_cpus=wanted), online)
    check_cpus(None, online)


@pytest.mark.parametrize(("wanted", "online"), [("4", "0-3"), ("0-4", "0-3"), ("1", "0,2-3")])
def test_cpus_that_are_not_there_are_named_with_those_that_are(wanted: str, online: str) -> None:
    with pytest.raises(InvalidInputError, match=f"cpuset_cpus '{wanted}' .*: it has {online}"):
        check_cpus(Resources(cpuset_cpus=wanted), online)
