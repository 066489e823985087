# SPDX-License-Identifier: Apache-2.0
"""The generated code is what scripts/proto makes, and the table of calls says what the services say."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest

from pycm.containerd import rpc

ROOT = Path(__file__).parents[3]
CALLS = [call for call in vars(rpc).values() if isinstance(call, rpc.Call)]


def _protoc() -> str:
    path = shutil.which("protoc")
    return (
        subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        if path
        else ""
    )


@pytest.mark.skipif(not _protoc().startswith("libprotoc 3.21."), reason="needs protoc 3.21 (Debian 12)")
def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/proto", tmp_path], check=True)
    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*_pb2.py*")}
    kept = {
        path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*_pb2.py*") if path.suffix != ".pyc"
    }
    assert set(made) == kept
    stale = [
        str(name) for name, path in made.items() if path.read_bytes() != (ROOT / "src" / name).read_bytes()
    ]
    assert stale == [], "run scripts/proto"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_has_the_types_of_its_service(call: rpc.Call) -> None:
    full_name, method_name = call.path[1:].split("/")
    module = importlib.import_module(f"pycm.containerd.proto.{full_name.split('.')[2]}_pb2")
    service = module.DESCRIPTOR.services_by_name[full_name.rpartition(".")[2]]
    method = service.methods_by_name[method_name]
    assert service.full_name == full_name
    assert method.input_type.full_name == call.request.DESCRIPTOR.full_name
    assert method.output_type.full_name == call.reply.DESCRIPTOR.full_name


def test_every_method_of_every_service_is_in_the_table() -> None:
    declared = set()
    for path in (ROOT / "src/pycm/containerd/proto").glob("*_pb2.py"):
        module = importlib.import_module(f"pycm.containerd.proto.{path.stem}")
        for service in module.DESCRIPTOR.services_by_name.values():
            declared |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert declared == {call.path for call in CALLS}
