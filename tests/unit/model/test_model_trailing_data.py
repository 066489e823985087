# SPDX-License-Identifier: Apache-2.0
"""Every reader of JSON, in files and in messages: blanks may follow the one value, anything else makes the document invalid."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pycm.config.document import parse as parse_configuration
from pycm.containerd.image_format import parse as parse_image_document
from pycm.errors import PycmError
from pycm.http.rules import read_server_message, read_token
from pycm.model.container import Container, Image
from pycm.model.gojson import read
from pycm.model.records import stored
from pycm.network.conf import parse_result
from pycm.network.plugins import _parse as parse_network_record
from pycm.registry.job import Job, parse_job, parse_news
from pycm.storage.store import ContainerStore
from pycm.twin.envelope import parse as parse_message
from pycm.twin.features.software_jobs import container_in
from pycm.twin.state import Kept, KeptFile, Memory, file_name

VALUE = b'{"a": "}"}'
DESCRIPTION = b'{"image": {"name": "registry.test/a:1"}}'
SANDBOX = json.dumps({"id": "a", "namespace": "/n", "chain": [], "published": [], "extra_hosts": []}).encode()
TOKEN = b'{"token": "t"}'
MESSAGE = b'{"errors": [{"message": "gone"}]}'
#: What reads JSON: a name, a document that it takes, and how it is called.
READERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "descriptor": (VALUE, read),
    "artifact": (DESCRIPTION, container_in),
    "configuration": (b"{}", lambda data: parse_configuration(data, "config.json")),
    "twin message": (VALUE, parse_message),
    "image document": (VALUE, lambda data: parse_image_document(data, "a")),
    "token": (TOKEN, read_token),
    "CNI result": (VALUE, lambda data: parse_result("bridge", data)),
    "network record": (SANDBOX, lambda data: parse_network_record("a", data)),
    "job": (Job("a", "b", "c", "d").line(), parse_job),
    "news": (b'{"step": "done"}', parse_news),
}
TRAILING = [
    b"}",
    b" {}",
    b"\n" + VALUE,
    b" <<<<<<< HEAD",
    b"\0",
    b",",
    b" // end",
    b"\x0b",
    b"\xc2\xa0",
    b"]",
    b'"',
]


@pytest.mark.parametrize("trailing", TRAILING)
@pytest.mark.parametrize("name", READERS)
def test_reader_refuses_what_follows_the_value(name: str, trailing: bytes) -> None:
    data, reader = READERS[name]
    with pytest.raises((PycmError, ValueError)):
        reader(data + trailing)


@pytest.mark.parametrize("name", READERS)
def test_reader_takes_blanks_after_the_value(name: str) -> None:
    data, reader = READERS[name]
    assert reader(data + b" \r\n\t\n") is not None


@pytest.mark.parametrize("trailing", TRAILING)
def test_reader_without_an_error_takes_nothing_from_a_broken_document(tmp_path, trailing: bytes) -> None:
    assert read_server_message(MESSAGE) == "gone"
    assert read_server_message(MESSAGE + trailing) == ""
    path = tmp_path / file_name("thing")
    path.write_bytes(b'{"c-1": {}}')
    assert Memory(str(tmp_path)).read("thing") == ["c-1"]
    path.write_bytes(b'{"c-1": {}}' + trailing)
    assert Memory(str(tmp_path)).read("thing") == []


@pytest.mark.parametrize("trailing", TRAILING)
def test_stored_container_with_trailing_data_is_set_aside(tmp_path, trailing: bytes) -> None:
    store = ContainerStore(str(tmp_path))
    for name in ("good", "bad"):
        store.save(Container(id=name, image=Image(name="registry.test/a:1")))
    path = tmp_path / "containers" / "bad" / "config.json"
    path.write_bytes(path.read_bytes() + trailing)
    assert [container.id for container in store.load()] == ["good"]
    assert not path.exists()
    assert (path.parent / "config.json.damaged").read_bytes().endswith(trailing)


def test_kept_state_of_the_twin_with_trailing_data_is_set_aside(tmp_path) -> None:
    kept = KeptFile(str(tmp_path))
    kept.write({})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"}")
    assert kept.read() == Kept()
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{path.name}.damaged"]


def test_error_says_where_the_rest_begins() -> None:
    with pytest.raises(PycmError, match=r"^not valid JSON: Extra data at line 2 column 3$"):
        read("{}\n  }")
    assert stored(Container(id="a")).endswith(b"}\n")
