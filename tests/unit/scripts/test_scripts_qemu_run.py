# SPDX-License-Identifier: Apache-2.0
"""What scripts/qemu-run makes of a directory, without booting it; tests/vm boots."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/lib/qemu_run.py"


@pytest.fixture
def qemu_run(scripts_lib: None) -> Any:
    import qemu_run

    return qemu_run


def make(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).write_bytes(name.encode())
    return directory


def printed(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, directory, "--print", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--print"], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_test_image_boots_systemd_from_its_own_initramfs(tmp_path: Path) -> None:
    line = printed(make(tmp_path, "vmlinuz", "initrd.gz", "root.ext4"))
    assert "init=/lib/systemd/systemd" in line
    assert f"-initrd {tmp_path}/initrd.gz" in line


def test_a_yocto_directory_boots_its_kernel_and_the_newest_root_file_system(tmp_path: Path) -> None:
    names = ("Image", "pycm-qemuarm64.ext4", "pycm-qemuarm64-20260101000000.rootfs.ext4", "modules.tgz")
    line = printed(make(tmp_path, *names))
    assert f"-kernel {tmp_path}/Image " in line
    assert f"file={tmp_path}/pycm-qemuarm64.ext4,format=raw" in line
    assert "root=/dev/vda" in line
    assert "-initrd" not in line


def test_a_disk_with_partitions_boots_by_its_boot_loader(tmp_path: Path) -> None:
    line = printed(
        make(tmp_path, "u-boot.bin", "sdv-image-all-qemuarm64.wic.qcow2", "sdv-image.ext4", "Image")
    )
    assert f"-bios {tmp_path}/u-boot.bin" in line
    assert "format=qcow2" in line
    assert "-kernel" not in line


def test_of_several_root_disks_one_has_to_be_named(tmp_path: Path) -> None:
    make(
        tmp_path,
        "Image",
        "full-qemuarm64.ext4",
        "data-qemuarm64.ext4",
        "data-qemuarm64.rootfs-20260101000000.ext4",
    )
    said = refusal(tmp_path)
    assert "2 root disks" in said
    assert "data-qemuarm64.ext4, full-qemuarm64.ext4" in said
    assert f"file={tmp_path}/full-qemuarm64.ext4," in printed(tmp_path / "full-qemuarm64.ext4")


def test_of_builds_without_a_link_one_is_enough_and_more_have_to_be_chosen_from(tmp_path: Path) -> None:
    make(tmp_path, "Image", "pycm-20260101000000.rootfs.ext4")
    assert "20260101000000" in printed(tmp_path)
    make(tmp_path, "pycm-20260102000000.rootfs.ext4")
    assert "2 root disks" in refusal(tmp_path)


@pytest.mark.parametrize(("names", "told"), [(("Image", "a.ext4"), True), (("u-boot.bin", "a.wic"), False)])
def test_a_root_file_system_alone_is_said_to_lack_ledas_data(
    tmp_path: Path, names: tuple[str, ...], told: bool
) -> None:
    program = tmp_path / "bin/qemu-system-aarch64"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT, make(tmp_path, *names)],
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("/data" in done.stdout) == told


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "no root disk in"),
        (("Image",), "no root disk in"),
        (("image.ext4",), "no kernel in"),
        (("image.wic", "Image"), "needs a boot loader beside it"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path: Path, names: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(make(tmp_path, *names))


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"no such directory: {tmp_path}/away" in refusal(tmp_path / "away")


def test_ports_are_forwarded_on_the_loop_back_address_only_and_nothing_gets_out(tmp_path: Path) -> None:
    line = printed(make(tmp_path, "vmlinuz", "root.ext4"), "--mqtt", "0", "--ssh", "0")
    forwarded = [word for word in line.split(",") if word.startswith("hostfwd=")]
    assert len(forwarded) == 2
    assert all(word.startswith("hostfwd=tcp:127.0.0.1:") for word in forwarded)
    assert "restrict=on" in line


def test_the_network_is_opened_only_when_asked_for(tmp_path: Path) -> None:
    assert "restrict=off" in printed(make(tmp_path, "vmlinuz", "root.ext4"), "--network")


def test_a_port_that_is_taken_is_replaced_by_a_free_one(qemu_run: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert qemu_run.free_port(taken) not in {0, taken}


def test_kvm_is_never_used(tmp_path: Path) -> None:
    line = printed(make(tmp_path, "vmlinuz", "root.ext4"))
    assert "-accel tcg" in line
    assert "accel kvm" not in line
    assert "enable-kvm" not in line


def test_qemu_run_ends_at_a_reset_unless_reboot_is_given(tmp_path: Path) -> None:
    directory = make(tmp_path, "vmlinuz", "root.ext4")
    assert " -no-reboot " in printed(directory)
    assert "-no-reboot" not in printed(directory, "--reboot")


def test_without_a_disk_of_its_own_a_run_forgets_what_it_wrote(tmp_path: Path) -> None:
    assert "snapshot=on" in printed(make(tmp_path, "vmlinuz", "root.ext4"))


def test_a_kept_disk_has_no_cache_that_a_power_cut_could_empty(tmp_path: Path) -> None:
    line = printed(make(tmp_path, "vmlinuz", "root.ext4"), "--disk", f"{tmp_path}/kept")
    assert f"file={tmp_path}/kept,format=raw,if=virtio,cache=writethrough" in line
    assert "snapshot" not in line


def test_a_kept_disk_is_made_once_and_the_image_is_left_alone(tmp_path: Path, qemu_run: Any) -> None:
    image = qemu_run.find(make(tmp_path, "vmlinuz", "root.ext4"))
    kept = tmp_path / "kept"
    assert qemu_run.prepare_disk(image, kept) == (kept, True)
    assert kept.read_bytes() == b"root.ext4"
    kept.write_bytes(b"written by the guest")
    qemu_run.prepare_disk(image, kept)
    assert kept.read_bytes() == b"written by the guest"
    assert image.disk.read_bytes() == b"root.ext4"


def test_the_image_itself_is_not_taken_for_a_kept_disk(tmp_path: Path) -> None:
    make(tmp_path, "vmlinuz", "root.ext4")
    assert "is the image itself" in refusal(tmp_path, "--disk", tmp_path / "root.ext4")


@pytest.mark.parametrize(("name", "reason"), [("away/disk", "no such directory: "), (".", "is a directory")])
def test_a_place_that_no_kept_disk_can_have_is_told_in_one_line_before_an_image_is_made(
    tmp_path: Path, name: str, reason: str
) -> None:
    # without a directory the test image would be made now
    assert reason in refusal("--disk", tmp_path / name)


def test_a_copy_that_fails_is_one_line_and_leaves_nothing(tmp_path: Path, qemu_run: Any) -> None:
    image = qemu_run.find(make(tmp_path, "vmlinuz", "root.ext4"))
    image.disk.unlink()
    with pytest.raises(qemu_run.RunError, match=r"cannot make .*kept: cp: ") as error:
        qemu_run.prepare_disk(image, tmp_path / "kept")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vmlinuz"]


def test_a_comma_in_a_files_name_does_not_end_qemus_option(tmp_path: Path) -> None:
    directory = tmp_path / "a,b"
    directory.mkdir()
    assert "a,,b/root.ext4,format" in printed(make(directory, "vmlinuz", "root.ext4"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--mqtt", "x"), "'x' must be a number from 0 to 65535"),
        (("--ssh", "65536"), "'65536' must be a number"),
        (("--memory", "-5"), "'-5' must be a number from 256"),
        (("--what",), "--what"),
    ],
)
def test_a_bad_option_is_named_in_one_line(words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, *words], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
