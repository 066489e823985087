# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for tests, made with openssl on the spot."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """`ca`: its certificate. `issue` makes a certificate with key for a server called localhost, or for a client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = directory / "ca.crt"
        self._key = directory / "ca.key"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=pycm test CA", "-keyout", self._key, "-out", self.ca,
        )  # fmt: skip

    def issue(self, name: str, host: str = "localhost") -> tuple[Path, Path]:
        """Certificate and key."""
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        request, extra = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extra.write_text(f"subjectAltName=DNS:{host}\n")
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", "2",
            "-extfile", extra, "-out", certificate,
        )  # fmt: skip
        return certificate, key

    def server(self, host: str = "localhost", *, clients: bool = False) -> ssl.SSLContext:
        """For a server called *host*; with *clients* it wants certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(f"server-{host}", host))
        if clients:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"
