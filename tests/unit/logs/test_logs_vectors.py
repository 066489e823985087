# SPDX-License-Identifier: Apache-2.0
"""The conformance cases of the area logs: lines as they are encoded, and the files as they are rotated."""

import json
from pathlib import Path

import pytest

from pycm.logs.jsonlog import LogFile, Target
from pycm.logs.records import cut, encode
from pycm.model.units import size_to_bytes

VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parents[2] / "vectors" / "runtime.json").read_text())
    if vector["area"] == "logs"
}


def raw_output(given):
    if "stdout_len" in given:
        return b"x" * given["stdout_len"] + (b"\n" if given.get("newline") else b"")
    return given["stdout"].removesuffix("<EOF>").encode()


def records(data):
    encoded = b"".join(encode(piece, "stdout", "t") for piece in cut(data, continuing=False, final=True))
    return [json.loads(line) for line in encoded.splitlines()]


@pytest.mark.parametrize("name", [name for name, v in VECTORS.items() if v["action"] == "encode"])
def test_output_is_encoded_as_in_the_vector(name):
    found = records(raw_output(VECTORS[name]["given"]))
    logs = [record["log"] for record in found]
    facts = {
        "logs": logs,
        "entries": len(logs),
        "lens": [len(log) for log in logs],
        "first_ends_newline": logs[0].endswith("\n"),
        "same_time": len({record["time"] for record in found}) == 1,
    }
    expect = VECTORS[name]["expect"]
    assert {key: facts[key] for key in expect} == expect


@pytest.mark.parametrize("name", [name for name, v in VECTORS.items() if v["action"] == "write"])
def test_files_are_rotated_as_in_the_vector(name, tmp_path):
    given, expect = VECTORS[name]["given"], VECTORS[name]["expect"]
    for told in given["existing"]:
        file, _, size = told.rstrip(")").partition("(")
        content = f"old {file}"
        (tmp_path / file).write_text(content.ljust(int(size.rstrip("B")) - 1 if size else 0) + "\n")
    log = LogFile(Target(str(tmp_path / "json.log"), size_to_bytes(given["max_size"]), given["max_files"]))
    log.open()
    assert log.full
    log.rotate()
    log.append(b"new\n")
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        told.partition("(")[0] for told in expect["files"]
    ]
    for told in expect["files"]:
        file, _, content = told.rstrip(")").partition("(")
        wanted = content if content == "new" or "json.log" in content else content.replace(".", "json.log.")
        assert (tmp_path / file).read_text().rstrip() == wanted


def test_every_vector_of_the_area_is_played():
    assert {vector["action"] for vector in VECTORS.values()} <= {"encode", "write"}
