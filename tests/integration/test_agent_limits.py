# SPDX-License-Identifier: Apache-2.0
"""What pycm adds to Kanto's description of a container, as the kernel sees it: limits, user, mounts, system calls, runtimes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from images import IMAGE, Image, base_layer, layer, write_archive

from pycm.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
PASSWD = b"root:x:0:0:root:/:/bin/sh\napp:x:1234:55::/:/bin/sh\n"


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        image = Image(IMAGE, layers=[base_layer(), layer({"etc/passwd": PASSWD})])
        archive = write_archive(tmp_path_factory.mktemp("image") / "app.tar", image)
        server.ctr("images", "import", archive)
        yield server


def run(agent: AgentProcess, script: str, *flags: str) -> str:
    return agent.run_container(IMAGE, "/bin/sh", "-c", script, flags=flags)


def output(agent: AgentProcess, script: str, *flags: str) -> list[str]:
    container_id = run(agent, script, *flags)
    agent.wait_for(container_id, status=5)
    return agent.logged(container_id)


def cgroup_value(pid: int, controller: str, v1: str, v2: str) -> str:
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
    return Path(f"/sys/fs/cgroup{lines[-1][2]}/{v2}").read_text().strip()


def limits(pid: int) -> tuple[bool, bool, str, str]:
    """Is the CPU quota 50 ms of 100, is the weight below the default, on which CPUs, how many processes."""
    quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")
    weight = cgroup_value(pid, "cpu", "cpu.shares", "cpu.weight")
    return (
        quota in ("50000", "50000 100000"),
        int(weight) in (512, 20, 59),  # as v1 counts, and as runc and newer runtimes turn it into v2's
        cgroup_value(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"),
        cgroup_value(pid, "pids", "pids.max", "pids.max"),
    )


def test_cpu_time_and_processes_are_limited_from_the_start_and_while_it_runs(agent: AgentProcess) -> None:
    flags = ("--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0", "--pids-limit", "32")
    container_id = run(agent, FOREVER, *flags)
    pid = agent.state(container_id)["pid"]
    assert limits(pid) == (True, True, "0", "32")
    lifted = ("--cpus", "-1", "--cpu-shares", "-1", "--cpuset-cpus", "-1", "--pids-limit", "-1")
    agent.cm("update", *lifted, container_id)
    online = Path("/sys/devices/system/cpu/online").read_text().strip()
    assert limits(pid) == (False, False, online, "max")
    assert agent.get(container_id)["host_config"]["resources"] is None
    agent.cm("update", *flags, container_id)
    assert limits(pid) == (True, True, "0", "32")
    agent.cm("stop", container_id)


def memory_limits(pid: int) -> tuple[str, str]:
    return (
        cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max"),
        cgroup_value(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    )


def test_swap_limit_that_was_filled_in_follows_the_memory_limit_while_it_runs(agent: AgentProcess) -> None:
    unlimited = run(agent, FOREVER)
    nothing = memory_limits(agent.state(unlimited)["pid"])
    container_id = run(agent, FOREVER, "-m", "32M")
    pid = agent.state(container_id)["pid"]
    assert "memory_swap_filled" in (agent.home / "containers" / container_id / "config.json").read_text()
    agent.cm("update", "-m", "96M", container_id)
    assert agent.get(container_id)["host_config"]["resources"] == {"memory": "96M", "memory_swap": "192M"}
    memory, swap = memory_limits(pid)
    assert (memory, swap in (str(192 << 20), str(96 << 20))) == (
        str(96 << 20),
        True,
    )  # cgroup v2 counts swap alone
    agent.kill()
    agent.start()
    agent.cm("update", "-m", "128M", container_id)
    agent.cm("update", "-m", "-1", container_id)
    assert agent.get(container_id)["host_config"]["resources"] is None
    assert memory_limits(pid) == nothing
    for one in (unlimited, container_id):
        agent.cm("stop", one)


def test_a_container_beyond_its_number_of_processes_cannot_fork(agent: AgentProcess) -> None:
    lines = output(agent, "(sleep 0; sleep 0 & sleep 0 & sleep 0 & wait) 2>&1; echo end", "--pids-limit", "3")
    assert any("can't fork" in line for line in lines), lines


def test_user_directory_and_ulimits_are_those_that_were_asked_for(agent: AgentProcess) -> None:
    script = "id -u; id -g; pwd; ulimit -Sn; ulimit -Hn; ulimit -Hc"
    flags = ("--user", "app", "--working-dir", "/etc", "--ulimit", "nofile=77:88", "--ulimit", "core=0:-1")
    assert output(agent, script, *flags) == ["1234", "55", "/etc", "77", "88", "unlimited"]
    assert output(agent, script) == ["0", "0", "/", "1024", "1024", *output(agent, "ulimit -Hc")]


def test_an_unknown_user_is_named_and_the_container_is_not_started(agent: AgentProcess) -> None:
    container_id = agent.cm("create", "--network", "host", "--rp", "no", "--user", "nobody-here", IMAGE)
    failed = agent.call("start", container_id)
    assert failed.returncode == 1
    assert "user 'nobody-here' is not in its /etc/passwd" in failed.stderr


# ── users of images whose files are behind links, or are no files ──

STORE = {"nix/store/passwd": PASSWD, "nix/store/group": b"root:x:0:\napp:x:55:\nvideo:x:44:app\n"}
#: Files and links of a layer upon the usual one; ".wh.etc" and the like take away what that one has.
LINKED = {
    "absolute": (STORE, {"etc/passwd": "/nix/store/passwd", "etc/group": "/nix/store/group"}),
    "relative": (STORE, {"etc/passwd": "../nix/store/passwd", "etc/group": "../../../nix/store/group"}),
    "etc": (STORE, {"etc": "nix/store"}),
    "chain": (STORE, {"etc/passwd": "p", "etc/p": "../n/passwd", "n": "/nix/store", "etc/group": "/n/group"}),
}
IDS = "id -u; id -g; id -G"


@pytest.fixture(scope="module")
def linked(containerd: ContainerdServer, tmp_path_factory: pytest.TempPathFactory) -> ContainerdServer:
    directory = tmp_path_factory.mktemp("linked")
    bad = {"loop": ({}, {"etc/passwd": "passwd"}), "escape": ({}, {"etc/passwd": "../../../../x/passwd"})}
    for name, (files, links) in {**LINKED, **bad}.items():
        image = Image(f"registry.test/pycm/{name}:1", layers=[base_layer(), layer(files, links=links)])
        containerd.ctr("images", "import", write_archive(directory / name, image))
    return containerd


@pytest.mark.parametrize("name", LINKED)
def test_user_files_behind_links_name_groups_and_users(
    tmp_path: Path, linked: ContainerdServer, name: str
) -> None:
    image = f"registry.test/pycm/{name}:1"
    with AgentProcess(tmp_path, linked) as agent:
        for user in ("1234", "app"):
            container_id = agent.run_container(image, "/bin/sh", "-c", IDS, flags=("--user", user))
            agent.wait_for(container_id, status=5)
            assert agent.logged(container_id) == ["1234", "55", "55 44"]
        container_id = agent.run_container(image, "/bin/sh", "-c", FOREVER)
        for user in ("1234", "app:55"):
            assert agent.pycm("exec", "-u", user, container_id, "/bin/sh", "-c", IDS).stdout.split("\n")[
                :3
            ] == [
                "1234",
                "55",
                "55 44",
            ]


@pytest.mark.parametrize(
    ("name", "said"),
    [("loop", "Too many levels of symbolic links"), ("escape", "a symbolic link leads out of it")],
)
def test_user_files_behind_bad_links_are_an_error(
    tmp_path: Path, linked: ContainerdServer, name: str, said: str
) -> None:
    with AgentProcess(tmp_path, linked) as agent:
        image = f"registry.test/pycm/{name}:1"
        container_id = agent.cm("create", "--network", "host", "--rp", "no", "--user", "1234", image)
        failed = agent.call("start", container_id)
        assert failed.returncode == 1
        assert f"'/etc/passwd' in the root file system: {said}" in failed.stderr


#: What a container puts in the place of its file.
REPLACE = "cd /etc; busybox mv passwd /tmp; {}; echo done; exec sleep 1000"
SPECIAL = {
    "a FIFO": "busybox mkfifo passwd",
    "a character device": "busybox mknod passwd c 1 5",
    "a directory": "busybox mkdir passwd",
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_exec_and_start_refuse_a_special_file_in_place_of_passwd_at_once(
    agent: AgentProcess, kind: str
) -> None:
    container_id = run(agent, REPLACE.format(SPECIAL[kind]), "--privileged")
    wait_until(lambda: agent.logged(container_id) == ["done"], 20, "the file is replaced")
    said = f"'/etc/passwd' in the root file system is {kind}, expected a regular file"
    for flags in ((), ("-u", "0"), ("-u", "root")):
        failed = agent.pycm("exec", *flags, container_id, "/bin/true")
        assert (failed.returncode, said in failed.stderr) == (125, True), failed
    agent.cm("stop", "-f", "-t", "1s", container_id)
    failed = agent.call("start", container_id)
    assert (failed.returncode, said in failed.stderr) == (1, True), failed


def test_exec_refuses_a_fifo_in_a_mounted_directory(agent: AgentProcess, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    container_id = run(agent, FOREVER, "--mp", f"{etc}:/etc")
    assert agent.pycm("exec", container_id, "/bin/true").returncode == 0
    os.mkfifo(etc / "group")
    failed = agent.pycm("exec", container_id, "/bin/true")
    assert (failed.returncode, "'/etc/group' in the root file system is a FIFO" in failed.stderr) == (
        125,
        True,
    )
    agent.cm("stop", container_id)
    failed = agent.call("start", container_id)
    assert f"mount source {shorten(f'{etc}/group')} would be the container's /etc/group" in failed.stderr


# ── mounts ──


def test_a_read_only_mount_cannot_be_written_and_another_one_can(agent: AgentProcess, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "there").write_text("content\n")
    script = "cat /m/there; echo x >/m/new; cat /w/there && echo y >/w/made"
    lines = output(agent, f"({script}) 2>&1", "--mp", f"{directory}:/m:ro,{directory}:/w")
    assert lines[0] == "content"
    assert "Read-only file system" in lines[1]
    assert sorted(path.name for path in directory.iterdir()) == ["made", "there"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--mp", "/no/such/place:/m"), "mount source '/no/such/place' does not exist on this machine"),
        (
            ("--devices", "/dev/no-such-device:/dev/x"),
            "device '/dev/no-such-device' is not a device node of this machine",
        ),
    ],
)
def test_what_is_not_on_this_machine_is_named(agent: AgentProcess, flags: tuple[str, ...], said: str) -> None:
    container_id = agent.cm("create", "--network", "host", "--rp", "no", *flags, IMAGE)
    failed = agent.call("start", container_id)
    assert failed.returncode == 1
    assert said in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert said in agent.state(container_id)["error"]


# ── devices and hooks ──

#: /dev/loop-control: not among the devices that every container has.
LOOP_CONTROL = os.makedev(10, 237)
TRY = "for m in '<' '>' '<>'; do eval \"true 3$m$0\" 2>/dev/null && echo yes || echo no; done"


def test_a_device_is_there_with_the_permissions_it_is_given_and_no_other(
    agent: AgentProcess, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFCHR | 0o666, LOOP_CONTROL)
    (tmp_path / "link").symlink_to(node)

    def tried(*devices: str) -> list[str]:
        flags = [word for device in devices for word in ("--devices", device)]
        path = devices[0].split(":")[1]
        return output(agent, TRY.replace("$0", path), *flags)

    assert tried(f"{node}:/dev/x") == ["yes", "yes", "yes"]
    assert tried(f"{tmp_path}/link:/dev/x:r") == ["yes", "no", "no"]
    assert tried(f"{node}:/dev/x:w") == ["no", "yes", "no"]
    made = "/bin/busybox mknod /tmp/x c 10 237; " + TRY.replace("$0", "/tmp/x")
    assert output(agent, made) == ["no", "no", "no"]
    assert output(agent, made, "--privileged") == ["yes", "yes", "yes"]


def test_a_directory_of_devices_brings_those_below_it(agent: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / "bus" / "a").mkdir(parents=True)
    os.mknod(tmp_path / "bus" / "a" / "x", stat.S_IFCHR | 0o666, LOOP_CONTROL)
    (tmp_path / "bus" / "no-device").touch()
    lines = output(agent, "cd /dev/bus; ls -R | tr '\\n' ' '", "--devices", f"{tmp_path}/bus:/dev/bus")
    assert lines[0].split() == [".:", "a", "./a:", "x"]


def test_hooks_are_run_by_the_runtime_with_their_arguments_and_variables(
    agent: AgentProcess, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    program = tmp_path / "hook"
    program.write_text(f'#!/bin/sh\ncat >/dev/null\necho "$1 $WHO" >>{said}\n')
    program.chmod(0o755)
    hooks = [
        {"path": str(program), "args": ["hook", kind], "env": ["WHO=me"], "type": number}
        for number, kind in enumerate(("prestart", "poststart", "poststop", "never"))
    ]
    description = {
        "container_id": "hooked",
        "image": {"name": IMAGE},
        "hooks": hooks,
        "config": {"cmd": ["/bin/sh", "-c", FOREVER]},
        "host_config": {"network_mode": "host", "restart_policy": {"type": "no"}},
    }
    (tmp_path / "hooked.json").write_text(json.dumps(description))
    agent.cm("create", "--file", tmp_path / "hooked.json")
    assert f"container hooked: hook '{program}' is of an unknown type and never runs" in agent.text()
    agent.cm("start", "hooked")
    assert said.read_text().splitlines() == ["prestart me", "poststart me"]
    agent.cm("stop", "hooked")
    assert said.read_text().splitlines() == ["prestart me", "poststart me", "poststop me"]


def test_a_hook_that_fails_keeps_the_container_from_starting_and_leaves_nothing(
    agent: AgentProcess, containerd: ContainerdServer, tmp_path: Path
) -> None:
    description = {
        "container_id": "refused",
        "image": {"name": IMAGE},
        "hooks": [{"path": "/bin/false", "type": 0}],
        "config": {"cmd": ["/bin/sh", "-c", FOREVER]},
        "host_config": {"network_mode": "host", "restart_policy": {"type": "no"}},
    }
    (tmp_path / "refused.json").write_text(json.dumps(description))
    agent.cm("create", "--file", tmp_path / "refused.json")
    failed = agent.call("start", "refused")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "hook" in failed.stderr
    assert "refused" not in containerd.ctr("tasks", "ls") + containerd.ctr("containers", "ls")


# ── what the agent does not see ──

#: What directives of systemd do to the view of a unit, done here by hand; a unit's drop-in may still ask for them.
HIDDEN = """\
set -e
mount --make-rslave /
mount -t tmpfs tmpfs /var/tmp          # PrivateTmp
mount -t tmpfs tmpfs /home             # ProtectHome=tmpfs
mount -o bind /dev/null /dev/kmsg      # ProtectKernelLogs
mount -t tmpfs tmpfs "$HIDE"           # InaccessiblePaths, ProtectKernelModules
mount -o bind,ro /srv /srv             # ProtectSystem=strict
exec "$@"
"""
NO_DEVICES = """\
set -e
mount --make-rslave /
mkdir /run/dev-$$
mount -t tmpfs tmpfs /run/dev-$$
for node in null zero full random urandom tty; do cp -a /dev/$node /run/dev-$$; done
mount --move /run/dev-$$ /dev          # PrivateDevices
rmdir /run/dev-$$
exec "$@"
"""


@pytest.fixture
def places() -> Iterator[list[Path]]:
    made = [Path(tempfile.mkdtemp(prefix="pycm-test-", dir=where)) for where in ("/var/tmp", "/home", "/srv")]
    for path in made:
        (path / "file").write_text(f"in {path}\n")
    yield made
    for path in made:
        shutil.rmtree(path)


def test_containers_get_what_the_agent_does_not_see(
    tmp_path: Path, containerd: ContainerdServer, places: list[Path]
) -> None:
    hidden = tmp_path / "modules"
    hidden.mkdir()
    (hidden / "file").write_text("modules\n")
    inside = (
        "env",
        f"HIDE={hidden}",
        "unshare",
        "-m",
        "--propagation",
        "unchanged",
        "sh",
        "-c",
        HIDDEN,
        "sh",
    )
    with AgentProcess(tmp_path, containerd, inside=inside) as agent:
        for path in (*places, hidden):
            assert output(agent, "cat /m/file", "--mp", f"{path}:/m") == [(path / "file").read_text().strip()]
            assert output(agent, "cat /m", "--mp", f"{path}/file:/m") == [(path / "file").read_text().strip()]
        kind = "busybox stat -c '%t %T' /dev/kmsg"
        assert output(agent, kind, "--privileged") == ["1 b"]
        assert output(agent, kind, "--devices", "/dev/kmsg:/dev/kmsg") == ["1 b"]
        failed = agent.call(
            "start", agent.cm("create", "--mp", f"{hidden}/none:/m", "--network", "host", IMAGE)
        )
        assert f"mount source {shorten(f'{hidden}/none')} does not exist on this machine" in failed.stderr


def test_privileged_containers_get_all_devices_that_the_agent_does_not_see(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    inside = ("unshare", "-m", "--propagation", "unchanged", "sh", "-c", NO_DEVICES, "sh")
    with AgentProcess(tmp_path, containerd, inside=inside) as agent:
        assert output(agent, "ls /dev/kmsg /dev/loop-control", "--privileged") == [
            "/dev/kmsg",
            "/dev/loop-control",
        ]
        assert output(agent, "ls /dev/x", "--devices", "/dev/loop-control:/dev/x") == ["/dev/x"]


# ── system calls ──

#: What the kernel says of the shell's filter, and whether a user namespace can be made, which needs no rights but a system call.
FILTER = "/bin/busybox grep Seccomp: /proc/self/status; /bin/busybox unshare -U /bin/true 2>/dev/null && echo made || echo refused"


def test_system_calls_are_filtered_unless_the_container_goes_without(agent: AgentProcess) -> None:
    assert output(agent, FILTER) == ["Seccomp:\t2", "refused"]
    assert output(agent, FILTER, "--seccomp-profile", "unconfined") == ["Seccomp:\t0", "made"]
    assert output(agent, FILTER, "--privileged") == ["Seccomp:\t0", "made"]
    assert output(agent, FILTER, "--cap-add", "CAP_SYS_ADMIN") == ["Seccomp:\t2", "made"]


def test_the_filter_can_be_switched_off_for_all_containers(
    tmp_path: Path, containerd: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd, containers='seccomp_profile = "unconfined"') as agent:
        assert output(agent, FILTER) == ["Seccomp:\t0", "made"]


# ── another runtime ──

#: crun refuses a hybrid of both cgroup versions, as some developers' machines have it: it sees the first one alone.
ONE_CGROUP_VERSION = (
    "unshare",
    "-m",
    "sh",
    "-c",
    'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$0" "$@"',
)


@pytest.fixture
def containerd_for_crun(tmp_path: Path) -> Iterator[ContainerdServer]:
    with private_containerd(wrapper=ONE_CGROUP_VERSION) as server:
        server.ctr("images", "import", write_archive(tmp_path / "app.tar", Image(IMAGE)))
        yield server


def test_crun_by_configuration_runs_the_same_containers(
    tmp_path: Path, containerd_for_crun: ContainerdServer
) -> None:
    with AgentProcess(tmp_path, containerd_for_crun, containers='runc_binary = "crun"') as agent:
        flags = ("--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "32", "-m", "64M")
        container_id = run(agent, FOREVER, *flags)
        info = containerd_for_crun.ctr("containers", "info", container_id)
        assert "crun" in info
        pid = agent.state(container_id)["pid"]
        assert limits(pid)[2:] == ("0", "32")
        assert output(agent, FILTER)[0] == "Seccomp:\t2"
        agent.cm("pause", container_id)
        agent.cm("unpause", container_id)
        agent.cm("update", "-m", "96M", container_id)
        agent.cm("stop", container_id)
        state = agent.wait_for(container_id, status=3)
        assert state["exit_code"] == 143
    wait_until(lambda: "crun" not in containerd_for_crun.ctr("tasks", "ls"), 10, "nothing is left")
