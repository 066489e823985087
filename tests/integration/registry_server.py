# SPDX-License-Identifier: Apache-2.0
"""A private registry (Debian's docker-registry) on a free loopback port, filled with images made on the spot.

    with RegistryServer(tmp_path) as registry:
        reference = registry.push(Image(), "app", "1.0")     # "localhost:PORT/app:1.0"
        registry.stop(); registry.start()                     # an outage

Images are copied with skopeo. The agent reaches it without configuration: a registry on loopback speaks plain HTTP unless told
otherwise. `config`: further lines of its YAML file.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from containerd_server import wait_until
from images import Image, write_archive
from mosquitto_server import free_port

if TYPE_CHECKING:
    from pathlib import Path

READY = 20.0
CONFIG = """\
version: 0.1
log:
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {directory}
http:
  addr: 127.0.0.1:{port}
"""


def find(program: str, package: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is missing: apt-get install {package}"
    return found


class RegistryServer:
    def __init__(self, directory: Path, config: str = "", inside: tuple[str, ...] = ()) -> None:
        """*inside*: words before its command line, and skopeo's; as for an agent in a network of its own."""
        self.directory = directory
        self.inside = inside
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        self._config = config
        self._log = directory / f"registry-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        conf = self.directory / f"registry-{self.port}.yml"
        storage = self.directory / f"registry-{self.port}"
        conf.write_text(CONFIG.format(directory=storage, port=self.port) + self._config)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.inside, find("docker-registry", "docker-registry"), "serve", conf],
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, READY, f"docker-registry listens: {self.log}")

    def _listens(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"docker-registry ended: {self.log[-2000:]}"
        ask = ["curl", "-s", "-o", "/dev/null", "--noproxy", "*", f"http://127.0.0.1:{self.port}/"]
        return subprocess.run([*self.inside, *ask], check=False).returncode == 0

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(120)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def push(self, image: Image, path: str, tag: str, *, form: str = "oci") -> str:
        """Put *image* into the registry; its reference. *form*: "oci", or "v2s2" for Docker's media types."""
        archive = self.directory / f"push-{path.replace('/', '-')}-{tag}.tar"
        write_archive(archive, image)
        self.copy(f"oci-archive:{archive}", path, tag, "--format", form)
        archive.unlink()
        return f"{self.host}/{path}:{tag}"

    def copy(self, source: str, path: str, tag: str, *flags: str) -> None:
        """`skopeo copy` of anything that it can read."""
        skopeo = [
            *self.inside,
            find("skopeo", "skopeo"),
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]
        target = f"docker://{self.host}/{path}:{tag}"
        done = subprocess.run([*skopeo, *flags, source, target], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"skopeo copy {source} {target}: {done.stderr}"
