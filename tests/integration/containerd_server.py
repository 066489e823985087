# SPDX-License-Identifier: Apache-2.0
"""A private containerd for tests: own directories, own socket, own namespace; nothing of it stays behind.

    with private_containerd() as server:
        server.ctr("images", "import", path)
        ...ContainerdRuntime(server.address, namespace=server.namespace)

runc keeps its state under /run/containerd/runc/<namespace> for all containerds of a machine, so every server has a namespace of
its own. `kill()` and `start()` play a crash: containers live on under their shims.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pycm.ports import LocalImage, RuntimeConnected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycm.containerd.runtime import ContainerdRuntime

READY = 30.0  # seconds for containerd to answer
STOP = 15.0
#: By how much a machine may be slower than the limits of waiting think: tests run beside others, on few cores. A limit that is not
#: reached costs nothing, so it is generous.
SLOW = 5
CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{directory}/c.sock"
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "{gc_startup}"
"""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll *condition* until it holds; fail with *what* after *seconds* (monotonic) of a machine with nothing else to do."""
    limit = seconds * SLOW
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {limit:g} s"
        time.sleep(0.02)


@dataclass
class ContainerdServer:
    directory: Path
    namespace: str = field(default_factory=lambda: f"pycm-{secrets.token_hex(4)}")
    gc_startup: str = "10s"
    #: Words before "containerd" on the command line.
    wrapper: tuple[str, ...] = ()
    #: Where containerd, its shim and ctr are; "" for those of the machine.
    programs: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return str(self.directory / "c.sock")

    @property
    def log(self) -> str:
        return (self.directory / "containerd.log").read_text(errors="replace")

    def start(self) -> None:
        """Start containerd (again) and wait until it answers."""
        config = self.directory / "config.toml"
        config.write_text(CONFIG.format(directory=self.directory, gc_startup=self.gc_startup))
        with open(self.directory / "containerd.log", "ab") as log:
            command = [*self.wrapper, self._program("containerd"), "--config", config]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment())
        wait_until(self._answers, READY, f"containerd at {self.address} answers")

    def _program(self, name: str) -> str:
        return os.path.join(self.programs, name)

    def _environment(self) -> dict[str, str]:
        """containerd looks for its shim in PATH first."""
        return {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}".lstrip(":")}

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, f"containerd ended: {self.log[-2000:]}"
        command = [self._program("ctr"), "--address", self.address, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End containerd; its containers go on."""
        assert self.process
        self.process.send_signal(number)
        self.process.wait(STOP * SLOW)

    def ctr(self, *arguments: str | Path) -> str:
        """Run ctr in this server's namespace and return its output; a failure shows ctr's text."""
        where = ["--address", self.address, "--namespace", self.namespace]
        command = [self._program("ctr"), *where, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ctr {' '.join(map(str, arguments))}: {done.stderr or done.stdout}"
        return done.stdout

    def stop(self) -> None:
        """End containerd and everything that it left running, mounted or written."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP)
            except subprocess.TimeoutExpired:
                self.kill()
        self._clear_machine()
        shutil.rmtree(self.directory, ignore_errors=True)

    def power_off(self) -> None:
        """All processes die at once, and what lies in memory is gone; `start()` is the next boot."""
        self.kill()
        self._clear_machine()
        shutil.rmtree(self.directory / "state")

    def _clear_machine(self) -> None:
        self._end_shims()
        self._unmount()
        shutil.rmtree(f"/run/containerd/runc/{self.namespace}", ignore_errors=True)
        self._remove_cgroups()

    def _end_shims(self) -> None:
        shims = self._shims()
        for pid in [child for shim in shims for child in _children(shim)] + shims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(_alive(pid) for pid in shims), STOP, "shims end")

    def _shims(self) -> list[int]:
        """Pids of the shims of this namespace. Children of a dead containerd belong to init, so /proc has to be searched."""
        found = []
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                words = file.read().split(b"\0")
                if b"containerd-shim" in words[0] and self.namespace.encode() in words:
                    found.append(int(path.split("/")[2]))
        return found

    def _unmount(self) -> None:
        with open("/proc/self/mountinfo") as file:
            points = [line.split()[4] for line in file]
        for point in reversed([point for point in points if point.startswith(f"{self.directory}/")]):
            subprocess.run(["umount", "--lazy", point], check=False)

    def _remove_cgroups(self) -> None:
        """The namespace's own cgroups, which runc leaves as empty parents."""
        for top in glob.glob(f"/sys/fs/cgroup/{self.namespace}") + glob.glob(
            f"/sys/fs/cgroup/*/{self.namespace}"
        ):
            for path, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaps has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
    return []


@contextlib.contextmanager
def private_containerd(
    *, gc_startup: str = "10s", wrapper: tuple[str, ...] = (), programs: str = ""
) -> Iterator[ContainerdServer]:
    """A running private containerd. The directory is short: a unix socket's path may have 107 bytes."""
    server = ContainerdServer(
        Path(tempfile.mkdtemp(prefix="pycm-ctrd-")), gc_startup=gc_startup, wrapper=wrapper, programs=programs
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def connect(runtime: ContainerdRuntime) -> str:
    """Wait until *runtime* has a session; return containerd's version."""
    async with aclosing(runtime.events()) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, RuntimeConnected):
                return event.version
    raise AssertionError("the events ended")


async def prepare(runtime: ContainerdRuntime, container_id: str, reference: str) -> None:
    """Find the image, as ports.Images.hold does, and prepare the container's snapshot."""
    image = await runtime._images.get(reference)
    await runtime.prepare(container_id, LocalImage(reference, image.top, image.config_digest))
