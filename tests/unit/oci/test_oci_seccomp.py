# SPDX-License-Identifier: Apache-2.0
"""The default seccomp profile: what it lets through, what a capability opens, and where there is none."""

import os
import stat

import pytest

from pycm.model.container import Container, HostConfig, Image
from pycm.model.validation import CAPABILITIES
from pycm.oci import machine
from pycm.oci.seccomp import profile
from pycm.oci.spec import DEFAULT_CAPABILITIES, HostFacts, build_spec
from pycm.oci.user import ProcessUser
from pycm.ports import ImageConfig


def allowed(made):
    """Names that are allowed whatever their arguments."""
    return {
        name
        for rule in made["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }


def rules(made, name):
    return [rule for rule in made["syscalls"] if name in rule["names"]]


def test_what_is_not_named_is_refused_as_forbidden():
    made = profile(DEFAULT_CAPABILITIES, "aarch64")
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert made["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]


@pytest.mark.parametrize(
    ("machine", "first"),
    [("x86_64", "SCMP_ARCH_X86_64"), ("armv7l", "SCMP_ARCH_ARM"), ("riscv64", None)],
)
def test_the_architectures_are_those_of_the_machine(machine, first):
    assert profile((), machine).get("architectures", [None])[0] == first


@pytest.mark.parametrize(
    "name",
    [
        "openat",
        "openat2",
        "futex",
        "futex_time64",
        "clock_gettime64",
        "epoll_pwait2",
        "rseq",
        "statx",
        "getrandom",
        "setuid",
        "setuid32",
        "stat64",
        "sendmsg",
    ],
)
def test_everyday_calls_are_allowed(name):
    assert name in allowed(profile(DEFAULT_CAPABILITIES, "x86_64"))


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("mount", "CAP_SYS_ADMIN"),
        ("setns", "CAP_SYS_ADMIN"),
        ("unshare", "CAP_SYS_ADMIN"),
        ("bpf", "CAP_BPF"),
        ("reboot", "CAP_SYS_BOOT"),
        ("finit_module", "CAP_SYS_MODULE"),
        ("process_vm_writev", "CAP_SYS_PTRACE"),
        ("clock_settime64", "CAP_SYS_TIME"),
        ("iopl", "CAP_SYS_RAWIO"),
        ("open_by_handle_at", "CAP_DAC_READ_SEARCH"),
    ],
)
def test_a_capability_opens_its_calls(name, capability):
    assert name not in allowed(profile(DEFAULT_CAPABILITIES, "x86_64"))
    assert name in allowed(profile((*DEFAULT_CAPABILITIES, capability), "x86_64"))


@pytest.mark.parametrize(
    "name", ["kexec_load", "io_uring_setup", "userfaultfd", "keyctl", "add_key", "swapon", "pivot_root"]
)
def test_some_calls_no_capability_opens(name):
    assert not rules(profile([f"CAP_{word}" for word in ("SYS_ADMIN", "SYS_BOOT", "BPF")], "x86_64"), name)


def test_new_namespaces_need_a_capability():
    made = profile(DEFAULT_CAPABILITIES, "x86_64")
    (clone,) = rules(made, "clone")
    assert clone["args"] == [
        {"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0},
    ]
    (clone3,) = rules(made, "clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert {"clone", "clone3"} <= allowed(profile(("CAP_SYS_ADMIN",), "x86_64"))


def test_no_name_stands_twice_without_arguments():
    names = [
        n
        for rule in profile(("CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYSLOG"), "x86_64")["syscalls"]
        if "args" not in rule
        for n in rule["names"]
    ]
    assert len(names) == len(set(names))


def linux(machine, **host):
    container = Container(
        id="c", image=Image(name="r/a:1"), host_config=HostConfig(network_mode="host", **host)
    )
    facts = HostFacts(cgroups_path="/a/b", seccomp_machine=machine)
    return build_spec(container, ImageConfig(cmd=("x",)), ProcessUser(), facts)["linux"]


def test_privileged_and_unconfined_containers_and_machines_without_seccomp_have_no_profile():
    assert "seccomp" in linux("x86_64")
    assert "mount" in allowed(linux("x86_64", extra_capabilities=("CAP_SYS_ADMIN",))["seccomp"])
    assert "seccomp" not in linux("x86_64", privileged=True)
    assert "seccomp" not in linux("x86_64", seccomp_profile="unconfined")
    assert "seccomp" not in linux("")


# ── can it be used? ──


def program(tmp_path, output, code=0):
    path = tmp_path / "runc"
    path.write_text(f"#!/bin/sh\necho '{output}'\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture(autouse=True)
def forgotten():
    machine.seccomp.cache_clear()
    yield
    machine.seccomp.cache_clear()


@pytest.mark.parametrize(
    ("output", "code", "can"),
    [
        ("runc version 1.1.5\nlibseccomp: 2.5.4", 0, True),
        ("crun version 1.8.1\n+SYSTEMD +SECCOMP +EBPF", 0, True),
        ("runc version 1.1.5", 0, False),
        ("", 1, True),
    ],
)
def test_a_runtime_that_was_built_without_seccomp_gets_no_profile(tmp_path, caplog, output, code, can):
    assert machine.seccomp(program(tmp_path, output, code)) is can
    assert ("seccomp: unavailable: " in caplog.text) is not can


def test_a_runtime_that_we_do_not_find_may_be_found_by_containerd(tmp_path):
    assert machine.seccomp(str(tmp_path / "none"))


def test_a_kernel_without_seccomp_gets_no_profile(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(machine, "_SECCOMP_ACTIONS", str(tmp_path / "none"))
    assert not machine.seccomp(program(tmp_path, "libseccomp"))
    assert "seccomp: unavailable: this kernel lacks it" in caplog.text


def test_the_runtime_is_asked_once(tmp_path):
    path = program(tmp_path, "libseccomp")
    assert machine.seccomp(path)
    os.unlink(path)
    assert machine.seccomp(path)


# ── capabilities ──


@pytest.mark.parametrize(
    ("status", "names"),
    [
        ("Name:\tinit\nCapBnd:\t0000000000000003\n", ("CAP_CHOWN", "CAP_DAC_OVERRIDE")),
        ("CapBnd:\t000001ffffffffff\n", CAPABILITIES),
        ("CapBnd:\tffffffffffffffff\n", CAPABILITIES),
        ("Name:\tinit\n", CAPABILITIES),
        ("CapBnd:\tmany\n", CAPABILITIES),
    ],
)
def test_a_privileged_container_gets_what_the_machine_can_give(tmp_path, monkeypatch, status, names):
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(machine, "_INIT", str(tmp_path / "status"))
    machine.capabilities.cache_clear()
    assert machine.capabilities() == names
    machine.capabilities.cache_clear()
