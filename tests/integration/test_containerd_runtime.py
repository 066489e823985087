# SPDX-License-Identifier: Apache-2.0
"""The Runtime port on a real, private containerd: images, life of a container, what is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from containerd_server import ContainerdServer, connect, prepare, private_containerd
from images import Image, base_layer, layer, write_archive

from pycm.containerd.runtime import ContainerdRuntime
from pycm.errors import ConflictError, NotFoundError, OperationFailedError
from pycm.ports import (
    ImageConfig,
    RuntimeConnected,
    RuntimeLost,
    TaskExited,
    TaskIO,
    TaskOOM,
    TaskRequest,
    TaskStatus,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.integration

PACKED = "localhost/pycm/packed:1"  # imported with --no-unpack
OURS = re.compile(r"\bc1\b|unpack")  # c1 as a word: a digest may have these two digits in it
BUSYBOX = "localhost/pycm/busybox:1"
SECONDS = 120.0
RUNC = "io.containerd.runc.v2"


def layered(name: str) -> Image:
    """Two layers; the second one replaces, deletes and adds."""
    second = {"etc/motd": b"hello\n", "etc/.wh.group": b"", "tmp/.wh..wh..opq": b""}
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["exit 3"],
        "Env": ["PATH=/bin", "A=ä"],
        "User": "0:0",
        "WorkingDir": "/tmp",
    }
    return Image(name=name, config=config, layers=[base_layer(), layer(second)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    archives = tmp_path_factory.mktemp("archives")
    with private_containerd(gc_startup="0s") as running:
        running.ctr("images", "import", write_archive(archives / "busybox.tar", Image(name=BUSYBOX)))
        running.ctr(
            "images", "import", "--no-unpack", write_archive(archives / "packed.tar", layered(PACKED))
        )
        yield running


@pytest.fixture
async def runtime(server: ContainerdServer) -> AsyncIterator[ContainerdRuntime]:
    made = ContainerdRuntime(server.address, namespace=server.namespace)
    assert (await asyncio.wait_for(connect(made), SECONDS)).startswith(("1.", "2.", "v"))
    yield made
    for container_id in ("c1", "c2"):
        await made.remove(container_id)
    await made.close()


def request(server: ContainerdServer, container_id: str, *args: str, **more: Any) -> TaskRequest:
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
    spec = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": f"/{server.namespace}/{container_id}",
            "resources": {},
        },
    }
    spec["linux"].update(more.pop("linux", {}))
    return TaskRequest(container_id, BUSYBOX, spec, RUNC, TaskIO(**more))


async def until_event(events: AsyncIterator[Any], kind: type) -> Any:
    async def search() -> Any:
        async for event in events:
            if isinstance(event, kind):
                return event
        raise AssertionError("the event stream ended")

    return await asyncio.wait_for(search(), SECONDS)


def cgroup_file(pid: int, controller: str, v1: str, v2: str) -> Path:
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}")
    return Path(f"/sys/fs/cgroup{lines[-1][2]}/{v2}")


def left_over(server: ContainerdServer) -> tuple[str, ...]:
    found = (
        server.ctr("containers", "ls", "-q"),
        server.ctr("tasks", "ls", "-q"),
        server.ctr("snapshots", "ls"),
        server.ctr("leases", "ls"),
    )
    return tuple(" ".join(line for line in text.split("\n") if OURS.search(line)) for text in found)


async def test_an_image_says_what_to_run(runtime: ContainerdRuntime) -> None:
    expected = ImageConfig(("/bin/sh", "-c"), ("exit 3",), ("PATH=/bin", "A=ä"), "0:0", "/tmp")
    assert await runtime.image(PACKED) == expected


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("invalid", "object required"),
        ("docker.io/library/busybox", "object required"),
        ("localhost:5000", "object required"),
        ("", "object required"),
        ("x/\ud800:1", "not found in containerd's namespace NS"),
        ("localhost/no/such:1", "not found in containerd's namespace NS"),
    ],
)
async def test_a_missing_image_is_named_with_what_to_do(
    runtime: ContainerdRuntime, server: ContainerdServer, reference: str, reason: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        await runtime.image(reference)
    text = f"failed to resolve reference {json.dumps(reference)}: {reason.replace('NS', server.namespace)}"
    assert str(caught.value) == text
    has_hint = "pycm pull" in caught.value.hint
    assert has_hint is (reason != "object required"), "Kanto's text says what to do"
    with pytest.raises(NotFoundError, match="failed to resolve reference"):
        await prepare(runtime, "c1", reference)


async def test_the_text_for_a_bare_name_is_kantos(runtime: ContainerdRuntime) -> None:
    with pytest.raises(NotFoundError) as caught:
        await runtime.image("invalid")
    assert str(caught.value) == 'failed to resolve reference "invalid": object required'


async def test_prepare_unpacks_what_was_imported_without_and_the_collector_keeps_it(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    before = server.ctr("snapshots", "ls").count("Committed")
    await prepare(runtime, "c1", PACKED)
    assert await runtime.has_snapshot("c1")
    await runtime.remove("c1")
    server.ctr("leases", "create", "--id", "sweep")
    server.ctr("leases", "rm", "--sync", "sweep")  # ctr's way to run the collector now
    assert (
        server.ctr("snapshots", "ls").count("Committed") == before + 1
    )  # the lower layer is the busybox image's
    assert "containerd.io/gc.ref.snapshot.overlayfs" in server.ctr("content", "ls")
    await prepare(runtime, "c1", PACKED)
    assert "extract-" not in server.ctr("snapshots", "ls")


async def test_files_of_the_root_are_read_through_all_layers(runtime: ContainerdRuntime) -> None:
    await prepare(runtime, "c1", PACKED)
    assert await runtime.read_rootfs_file("c1", "/etc/passwd", 1 << 20) == b"root:x:0:0:root:/:/bin/sh\n"
    assert await runtime.read_rootfs_file("c1", "/etc/passwd", 4) == b"root"
    assert await runtime.read_rootfs_file("c1", "/etc/motd", 100) == b"hello\n"
    assert await runtime.read_rootfs_file("c1", "/etc/group", 100) is None  # deleted by the second layer
    linked = await runtime.read_rootfs_file("c1", "/bin/sh", 4)
    assert linked == await runtime.read_rootfs_file("c1", "/bin/busybox", 4) == b"\x7fELF"
    with pytest.raises(OperationFailedError):
        await runtime.read_rootfs_file("c1", "/etc", 100)


async def test_prepare_replaces_what_an_interrupted_creation_left(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    await prepare(runtime, "c1", PACKED)
    assert await runtime.read_rootfs_file("c1", "/etc/motd", 100) == b"hello\n"
    await runtime.start(request(server, "c1", "/bin/true"))
    with pytest.raises(ConflictError, match="container c1 exists already in containerd's namespace"):
        await prepare(runtime, "c1", BUSYBOX)


async def test_a_container_runs_and_its_exit_code_is_told(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    async with aclosing(runtime.events()) as events:
        assert (await until_event(events, RuntimeConnected)).tasks == ()
        pid = await runtime.start(request(server, "c1", "/bin/sh", "-c", "exit 42"))
        exited = await until_event(events, TaskExited)
    assert (exited.id, exited.pid, exited.exit.code) == ("c1", pid, 42)
    assert exited.exit.at.startswith("20")
    assert exited.exit.at.endswith("Z")
    (task,) = await runtime.tasks()
    assert (task.id, task.pid, task.status, task.exit) == ("c1", pid, TaskStatus.STOPPED, exited.exit)
    await runtime.delete_task("c1")
    await runtime.delete_task("c1")
    assert await runtime.tasks() == ()
    assert await runtime.has_snapshot("c1")


async def test_a_signal_ends_it_and_a_second_one_finds_nobody(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    async with aclosing(runtime.events()) as events:
        await until_event(events, RuntimeConnected)
        await runtime.start(
            request(server, "c1", "/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
        )
        (task,) = await runtime.tasks()
        assert task.status is TaskStatus.RUNNING
        assert task.exit is None
        with pytest.raises(ConflictError, match="c1 is running"):
            await runtime.delete_task("c1")
        # the trap may not stand yet: TERM is ignored by a first process without one
        exited = asyncio.create_task(until_event(events, TaskExited))
        while not exited.done():
            try:
                await runtime.signal("c1", signal.SIGTERM)
            except NotFoundError:
                break
            await asyncio.wait([exited], timeout=0.1)
        assert (await exited).exit.code == 7
    with pytest.raises(NotFoundError):
        await runtime.signal("c1", signal.SIGTERM)
    with pytest.raises(NotFoundError):
        await runtime.signal("c2", signal.SIGKILL, everyone=True)


async def test_pause_resume_and_a_new_memory_limit(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    pid = await runtime.start(request(server, "c1", "/bin/sleep", "1000"))
    await runtime.pause("c1")
    assert [task.status for task in await runtime.tasks()] == [TaskStatus.PAUSED]
    with pytest.raises(ConflictError, match="c1 is paused"):
        await runtime.start(request(server, "c1", "/bin/true"))
    await runtime.resume("c1")
    assert [task.status for task in await runtime.tasks()] == [TaskStatus.RUNNING]
    await runtime.update("c1", {"memory": {"limit": 64 << 20}})
    assert int(cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max").read_text()) == 64 << 20


async def test_an_out_of_memory_kill_is_told(runtime: ContainerdRuntime, server: ContainerdServer) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    hungry = request(
        server,
        "c1",
        "/bin/sh",
        "-c",
        "a=x; while :; do a=$a$a; done",
        linux={"resources": {"memory": {"limit": 16 << 20}}},
    )
    async with aclosing(runtime.events()) as events:
        await until_event(events, RuntimeConnected)
        await runtime.start(hungry)
        seen = {}
        while len(seen) < 2:
            event = await until_event(events, TaskOOM | TaskExited)
            seen[type(event)] = event
    assert seen[TaskOOM].id == "c1"
    assert seen[TaskExited].exit.code == 137


@pytest.mark.parametrize("state", ["running", "paused", "exited", "never started"])
async def test_remove_leaves_nothing_behind(
    runtime: ContainerdRuntime, server: ContainerdServer, state: str
) -> None:
    await prepare(runtime, "c1", PACKED)
    if state != "never started":
        command = ("/bin/true",) if state == "exited" else ("/bin/sleep", "1000")
        await runtime.start(request(server, "c1", *command))
    if state == "paused":
        await runtime.pause("c1")
    await runtime.remove("c1")
    await runtime.remove("c1")
    assert left_over(server) == ("", "", "", "")
    resources = await leased(runtime)
    assert not [resource for resource in resources if OURS.search(resource.id) or resource.type == "content"]


async def leased(runtime: ContainerdRuntime) -> list[Any]:
    from pycm.containerd import rpc
    from pycm.containerd.proto import leases_pb2

    found = await runtime._client.call(
        rpc.LEASE_RESOURCES, leases_pb2.ListResourcesRequest(id="kanto-cm.lease")
    )
    return list(found.resources)


async def test_the_lease_keeps_the_snapshot_of_a_stopped_container(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    server.ctr("leases", "create", "--id", "sweep")
    server.ctr("leases", "rm", "--sync", "sweep")
    assert await runtime.has_snapshot("c1")
    assert ("snapshots/overlayfs", "c1-snapshot") in {(item.type, item.id) for item in await leased(runtime)}


async def test_a_start_replaces_the_record_of_a_dead_task(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    await runtime.start(request(server, "c1", "/bin/true"))
    await settled(runtime, TaskStatus.STOPPED)
    first = await runtime.start(request(server, "c1", "/bin/true"))  # record and task are there
    await settled(runtime, TaskStatus.STOPPED)
    server.ctr("tasks", "rm", "c1")
    second = await runtime.start(request(server, "c1", "/bin/sleep", "1000"))  # only the record is
    assert first != second
    with pytest.raises(ConflictError, match=f"c1 is running in containerd .pid {second}"):
        await runtime.start(request(server, "c1", "/bin/true"))


async def settled(runtime: ContainerdRuntime, status: TaskStatus) -> None:
    deadline = asyncio.get_running_loop().time() + SECONDS
    while [task.status for task in await runtime.tasks()] != [status]:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"args": ("/no/such",)}, OperationFailedError, "no such file"),
        ({"runtime": "io.containerd.nothing.v1"}, OperationFailedError, "nothing"),
        ({"cwd": "relative"}, OperationFailedError, "[cC]wd"),
    ],
)
async def test_a_start_that_fails_leaves_only_the_snapshot(
    runtime: ContainerdRuntime, server: ContainerdServer, change: dict[str, Any], error: type, text: str
) -> None:
    await prepare(runtime, "c1", BUSYBOX)
    made = request(server, "c1", *change.get("args", ("/bin/true",)))
    made.spec["process"]["cwd"] = change.get("cwd", "/")
    broken = TaskRequest("c1", BUSYBOX, made.spec, change.get("runtime", RUNC), made.io)
    with pytest.raises(error, match=text) as caught:
        await runtime.start(broken)
    assert "\n" not in str(caught.value)
    assert left_over(server)[:2] == ("", "")
    assert await runtime.has_snapshot("c1")
    await runtime.start(request(server, "c1", "/bin/true"))


async def test_a_start_without_snapshot_says_so(runtime: ContainerdRuntime, server: ContainerdServer) -> None:
    with pytest.raises(NotFoundError, match="containerd no longer has snapshot c1-snapshot") as caught:
        await runtime.start(request(server, "c1", "/bin/true"))
    assert "create it again" in caught.value.hint
    assert not await runtime.has_snapshot("c1")


async def test_output_goes_to_the_fifos_and_the_task_names_them(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    io = {name: str(server.directory / name) for name in ("stdout", "stderr")}
    for path in io.values():
        os.mkfifo(path)
    descriptors = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in io.values()]
    try:
        await prepare(runtime, "c1", BUSYBOX)
        await runtime.start(request(server, "c1", "/bin/sh", "-c", "echo hello; echo oops >&2", **io))
        await settled(runtime, TaskStatus.STOPPED)
        assert [task.io for task in await runtime.tasks()] == [TaskIO(**io)]
        await runtime.delete_task("c1")  # waits until the shim has copied everything
        assert [os.read(descriptor, 100) for descriptor in descriptors] == [b"hello\n", b"oops\n"]
    finally:
        for descriptor, path in zip(descriptors, io.values(), strict=True):
            os.close(descriptor)
            os.unlink(path)


async def test_two_preparations_of_one_packed_image_at_once_both_succeed(
    runtime: ContainerdRuntime, server: ContainerdServer, tmp_path: Any
) -> None:
    fresh = layered("localhost/pycm/fresh:1")
    fresh.layers = [*fresh.layers, layer({"etc/fresh": b"1"})]
    server.ctr("images", "import", "--no-unpack", write_archive(tmp_path / "fresh.tar", fresh))
    await asyncio.gather(prepare(runtime, "c1", fresh.name), prepare(runtime, "c2", fresh.name))
    assert await runtime.read_rootfs_file("c2", "/etc/fresh", 9) == b"1"
    assert left_over(server)[3] == ""


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        ({"config_bytes": b"{not json"}, "is not JSON"),
        ({"config_bytes": b"[" * 100_000}, "is not JSON"),
        ({"config_bytes": b"[]"}, "is not a JSON object"),
        ({"config": {"Cmd": "sh"}}, "Cmd of configuration .*: expected a list, got 'sh'"),
        ({"architecture": "pdp11"}, "no manifest in it is for this machine"),
        ({"diff_ids": []}, "1 layers in the manifest, 0 diff_ids in the configuration"),
    ],
)
async def test_a_damaged_image_is_refused_in_one_line(
    runtime: ContainerdRuntime, server: ContainerdServer, tmp_path: Any, spoil: dict[str, Any], text: str
) -> None:
    image = Image(name="localhost/pycm/spoilt:1", **spoil)
    import_blobs(server, tmp_path, image)
    with pytest.raises(OperationFailedError, match=text) as caught:
        await prepare(runtime, "c1", image.name)
    assert str(caught.value).startswith('image "localhost/pycm/spoilt:1" cannot be used: ')
    assert "\n" not in str(caught.value)
    assert not await runtime.has_snapshot("c1")


async def test_a_layer_that_is_not_what_its_diff_id_says_is_refused(
    runtime: ContainerdRuntime, server: ContainerdServer, tmp_path: Any
) -> None:
    image = Image(
        name="localhost/pycm/spoilt:1", layers=[layer({"a": b"1"})], diff_ids=["sha256:" + "0" * 64]
    )
    import_blobs(server, tmp_path, image)
    with pytest.raises(
        OperationFailedError, match=r"layer 1 of 1 .* it unpacks to sha256:.*, expected sha256:000"
    ):
        await prepare(runtime, "c1", image.name)
    assert "extract-" not in server.ctr("snapshots", "ls")
    assert left_over(server) == ("", "", "", "")


def import_blobs(server: ContainerdServer, tmp_path: Any, image: Image) -> None:
    server.ctr(
        "images", "import", "--no-unpack", "--all-platforms", write_archive(tmp_path / "spoilt.tar", image)
    )


async def test_containerd_killed_and_back_keeps_containers_and_misses_no_exit(
    runtime: ContainerdRuntime, server: ContainerdServer
) -> None:
    for container_id in ("c1", "c2"):
        await prepare(runtime, container_id, BUSYBOX)
    stays = await runtime.start(request(server, "c1", "/bin/sleep", "1000"))
    goes = await runtime.start(request(server, "c2", "/bin/sleep", "1000"))
    async with aclosing(runtime.events()) as events:
        before = await until_event(events, RuntimeConnected)
        assert {(task.id, task.pid) for task in before.tasks} == {("c1", stays), ("c2", goes)}
        server.kill()
        lost = await asyncio.wait_for(anext(events), SECONDS)
        assert isinstance(lost, RuntimeLost)
        assert lost.reason.startswith("containerd at ")
        os.kill(goes, signal.SIGKILL)  # nobody is there to tell
        server.start()
        after = await asyncio.wait_for(anext(events), SECONDS)
        assert isinstance(after, RuntimeConnected)
        tasks = {task.id: task for task in after.tasks}
        assert (tasks["c1"].pid, tasks["c1"].status) == (stays, TaskStatus.RUNNING)
        assert (tasks["c2"].pid, tasks["c2"].status) == (goes, TaskStatus.STOPPED)
        assert tasks["c2"].exit is not None
        assert tasks["c2"].exit.code == 137
        await runtime.signal("c1", signal.SIGKILL)  # and events flow again
        while (await until_event(events, TaskExited)).id != "c1":
            pass


async def test_a_stopped_containerd_ends_the_stream_once_and_calls_fail_plainly(
    server: ContainerdServer,
) -> None:
    runtime = ContainerdRuntime(str(server.directory / "nobody.sock"), namespace=server.namespace)
    async with aclosing(runtime.events()) as events:
        lost = await asyncio.wait_for(anext(events), SECONDS)
        assert isinstance(lost, RuntimeLost)
        assert "nobody.sock does not answer" in lost.reason
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(events), 0.5)  # no second RuntimeLost for the same absence
    await runtime.close()
