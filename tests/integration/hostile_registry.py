# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves as it is told, on a loopback port: what a real one does not do on demand.

    with HostileRegistry() as registry:
        reference = registry.put(Image(), "app", "1.0")
        registry.answer = lambda request: request.say(500) if "/blobs/" in request.path else False

`answer` is asked first and returns True for what it has answered; the rest is answered properly. `requests`: all of them, in order.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from images import Image, document_and_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Seen:
    path: str
    headers: dict[str, str]

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


class Request(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Seen(self.path, headers))
        try:
            if owner.answer is None or not owner.answer(self):
                owner.proper(self)
        except (ConnectionError, ssl.SSLError):
            pass
        self.close_connection = True

    def say(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bool:
        """A whole answer; Content-Length is right unless *headers* say otherwise."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        return True

    def cut(self) -> None:
        """End the connection as if the network had gone."""
        self.close_connection = True
        self.wfile.flush()

    def stall(self) -> bool:
        """Say nothing until the registry ends."""
        self.server.owner.ended.wait()
        return True

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: HostileRegistry

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are part of the play."""


@dataclass
class HostileRegistry:
    #: A context with certificate and key: it speaks TLS.
    tls: ssl.SSLContext | None = None
    answer: Callable[[Request], bool] | None = None
    requests: list[Seen] = field(default_factory=list)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> HostileRegistry:
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.owner = self
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def put(self, image: Image, path: str, tag: str, *, docker: bool = False) -> str:
        """Take *image* in; its reference."""
        kind, document, blobs = document_and_blobs(image, docker=docker)
        self.blobs.update(blobs)
        return self.put_document(kind, document, path, tag)

    def put_document(self, kind: str, document: bytes, path: str, tag: str) -> str:
        digest = "sha256:" + hashlib.sha256(document).hexdigest()
        self.manifests[f"/v2/{path}/manifests/{tag}"] = (kind, document)
        self.manifests[f"/v2/{path}/manifests/{digest}"] = (kind, document)
        return f"{self.host}/{path}:{tag}"

    def blob_requests(self) -> list[Seen]:
        return [seen for seen in self.requests if "/blobs/" in seen.path]

    def proper(self, request: Request) -> None:
        """What a registry should answer."""
        path = request.path.partition("?")[0]
        if path in self.manifests:
            kind, data = self.manifests[path]
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            request.say(200, data, {"Content-Type": kind, "Docker-Content-Digest": digest})
            return
        blob = self.blobs.get(path.rpartition("/")[2])
        if blob is None:
            request.say(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            return
        begin = request.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if begin:
            placed = f"bytes {begin}-{len(blob) - 1}/{len(blob)}"
            request.say(206, blob[int(begin) :], {"Content-Range": placed})
        else:
            request.say(200, blob)
