# SPDX-License-Identifier: Apache-2.0
"""TLS contexts: which files they need, whom they trust, and what is said of unusable files."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from pycm.errors import InvalidInputError
from pycm.tls import TlsFiles, fingerprint, make_context, stamp


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A self-signed certificate, which is its own authority, with its key."""
    directory = tmp_path_factory.mktemp("tls")
    key, cert = str(directory / "key.pem"), str(directory / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-subj", "/CN=test", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return TlsFiles(cert, cert, key)


def names(context: ssl.SSLContext) -> list[object]:
    return [found["subject"] for found in context.get_ca_certs()]


def test_context_trusts_root_ca_alone_without_system_cas(pair: TlsFiles) -> None:
    context = make_context(pair, system_cas=False)
    assert names(context) == [((("commonName", "test"),),)]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_context_keeps_lenient_verification_with_system_cas(pair: TlsFiles) -> None:
    context = make_context(pair, system_cas=True)
    assert ((("commonName", "test"),),) in names(context)
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname


def test_context_without_verification_trusts_any_server() -> None:
    context = make_context(TlsFiles("/missing", verify=False), system_cas=True)
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_context_is_of_the_wanted_class(pair: TlsFiles) -> None:
    class Own(ssl.SSLContext):
        pass

    assert isinstance(make_context(pair, system_cas=False, kind=Own, alpn=("x",)), Own)


def test_context_without_root_ca_needs_system_cas() -> None:
    make_context(TlsFiles(), system_cas=True)
    with pytest.raises(InvalidInputError, match="root_ca"):
        make_context(TlsFiles(), system_cas=False)


@pytest.mark.parametrize(
    ("field", "content", "text"),
    [
        ("root_ca", None, r"root_ca: '.*/bad' cannot be used: No such file or directory"),
        ("root_ca", b"x", r"root_ca: '.*/bad' cannot be used: "),
        ("client_cert", None, r"client_cert: '.*/bad' with client_key '.*' cannot be used: No such file or directory"),
        ("client_cert", b"x", r"client_cert: '.*/bad' with client_key '.*' cannot be used: "),
        ("client_key", None, r"client_key: '.*/bad' cannot be used: No such file or directory"),
        ("client_key", b"x", r"client_cert: '.*' with client_key '.*/bad' cannot be used: "),
    ],
)  # fmt: skip
def test_unusable_file_is_named(
    pair: TlsFiles, tmp_path: Path, field: str, content: bytes | None, text: str
) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(InvalidInputError, match=text) as caught:
        make_context(pair._replace(**{field: str(bad)}), system_cas=False)
    assert caught.value.field
    assert caught.value.reason.startswith("cannot be used: ")


@pytest.mark.parametrize("field", ["root_ca", "client_cert", "client_key"])
def test_fifo_is_refused_instead_of_waited_for(pair: TlsFiles, tmp_path: Path, field: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(InvalidInputError, match=f"{field}: .*fifo.*: not a regular file"):
        make_context(pair._replace(**{field: str(fifo)}), system_cas=True)


@pytest.mark.parametrize("missing", ["client_cert", "client_key"])
def test_half_a_pair_is_refused(pair: TlsFiles, missing: str) -> None:
    with pytest.raises(InvalidInputError, match="must be set together"):
        make_context(pair._replace(**{missing: ""}), system_cas=True)


def test_encrypted_key_is_refused_without_a_prompt(pair: TlsFiles, tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-in", pair.client_key, "-aes256", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(InvalidInputError, match=r"client_key .* cannot be used"):
        make_context(pair._replace(client_key=str(locked)), system_cas=False)


def test_client_certificate_is_not_read_unless_it_is_shown(pair: TlsFiles) -> None:
    files = pair._replace(client_cert="/missing")
    make_context(files, system_cas=True, show_cert=False)
    with pytest.raises(InvalidInputError, match="client_cert"):
        make_context(files, system_cas=True)


def test_fingerprint_changes_when_a_file_is_written(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    files = TlsFiles(str(ca))
    missing = fingerprint(files)
    assert stamp(str(ca)) == ()
    ca.write_text("a")
    present = fingerprint(files)
    assert missing != present == fingerprint(files)
    ca.write_text("ab")
    assert fingerprint(files) != present
