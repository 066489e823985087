# SPDX-License-Identifier: Apache-2.0
"""Software that is installed and removed: statuses, checksums, order, and what is kept of it."""

import hashlib
import json

import pytest
from twin_world import C1, C2, DEVICE, Create, Download, HeldWorld, Start, World, container

from pycm.errors import OperationFailedError
from pycm.twin.features.software_jobs import MAX_ARTIFACT
from pycm.twin.lanes import INTERNAL
from pycm.twin.outbox import Keep, Publish
from pycm.twin.session import Thing
from pycm.twin.state import FILE, Kept, KeptFile, kept_from

INSTALL = "/features/SoftwareUpdatable/inbox/messages/install"
REMOVE = "/features/SoftwareUpdatable/inbox/messages/remove"
URL = "http://artifacts.test/web.json"
BODY = json.dumps({"container_id": C2, "container_name": "web", "image": {"name": "registry.test/web:2.1"}})


def module(name="web", url=URL, **checksums):
    download = {"HTTP": {"url": url}} if url else {}
    return {
        "softwareModule": {"name": name, "version": "1"},
        "artifacts": [{"download": download, "checksums": checksums}],
    }


def job(*modules, correlation="job"):
    return {"correlationId": correlation, "softwareModules": list(modules)}


def told(world):
    """(property, status, message) of the statuses told since the last call."""
    found = []
    for item in world.seen:
        payload = json.loads(item.payload) if item.payload else {}
        name = payload.get("path", "").rpartition("/")[2]
        if name in ("lastOperation", "lastFailedOperation"):
            value = payload["value"]
            found.append((name.removeprefix("last"), value["status"], value.get("message", "")))
    world.seen.clear()
    return found


def installed(world, argument):
    send(world, INSTALL, argument)
    return told(world)


def command(path, argument):
    headers = {"correlation-id": "c", "response-required": True, "content-type": "application/json"}
    payload = {"topic": "acme.test/gw-01:edge:containers/things/live/messages/x", "headers": headers}
    return {
        "topic": "command//acme.test:gw-01:edge:containers/req/r/x",
        "payload": {**payload, "path": path, "value": argument},
    }


def send(world, path, argument):
    world.send(command(path, argument))


@pytest.fixture
def world():
    return World(http={URL: {"body": BODY}})


def failed(status, message):
    return [
        ("Operation", "STARTED", ""),
        ("Operation", "DOWNLOADING", ""),
        ("FailedOperation", status, message),
        ("Operation", status, message),
    ]


def test_a_module_is_told_step_by_step(world):
    assert [status for _, status, _ in installed(world, job(module()))] == [
        "STARTED",
        "DOWNLOADING",
        "DOWNLOADED",
        "INSTALLING",
        "INSTALLED",
        "FINISHED_SUCCESS",
    ]
    assert world.containers.get(C2).state.status.name == "RUNNING"


def sums(data):
    return {
        "MD5": hashlib.md5(data).hexdigest(),
        "SHA1": hashlib.sha1(data).hexdigest(),
        "SHA256": hashlib.sha256(data).hexdigest(),
    }


def test_checksums_count_in_either_case_and_with_blanks_around(world):
    checksums = {name: f" {text.upper()}\n" for name, text in sums(BODY.encode()).items()}
    assert installed(world, job(module(**checksums)))[-1] == ("Operation", "FINISHED_SUCCESS", "")


@pytest.mark.parametrize("name", ["MD5", "SHA1", "SHA256"])
def test_each_checksum_that_is_given_is_verified(world, name):
    checksums = {**sums(BODY.encode()), name: sums(b"other")[name]}
    expected = failed("FINISHED_REJECTED", f"{name.lower()} checksum does not match")
    assert installed(world, job(module(**checksums))) == expected
    assert world.containers.list() == []


@pytest.mark.parametrize(
    ("checksums", "status", "message"),
    [
        ({"MD5": "00"}, "FINISHED_REJECTED", "md5 checksum does not match"),
        (
            {"SHA256": "x" * 64},
            "FINISHED_REJECTED",
            "the provided input hash is either invalid, not a hex string or the length exceeds 32 bytes",
        ),
        (
            {"SHA1": "00 00"},
            "FINISHED_REJECTED",
            "the provided input hash is either invalid, not a hex string or the length exceeds 20 bytes",
        ),
        ({"MD5": "0" * 34}, "FINISHED_ERROR", INTERNAL),
    ],
)
def test_a_checksum_that_is_none_fails_the_module(world, checksums, status, message):
    assert installed(world, job(module(**checksums))) == failed(status, message)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("<html>", "FINISHED_ERROR", "not valid JSON"),
        ("[]", "FINISHED_ERROR", "is not an object"),
        ('{"image":5}', "FINISHED_ERROR", "image: 5"),
        ("[" * 5000, "FINISHED_ERROR", "deep"),
        ('{"image":{"name":"a:1"},"container_id":"../x"}', "FINISHED_REJECTED", "invalid container id"),
        ('{"image":{"name":"a:1"},"container_name":"-x"}', "FINISHED_REJECTED", "invalid container name"),
    ],
)
def test_a_body_that_describes_no_container_fails_the_module(body, status, words):
    world = World(http={URL: {"body": body}})
    found = installed(world, job(module()))
    assert [entry[:2] for entry in found] == [entry[:2] for entry in failed(status, "")]
    assert words in found[-1][2]


def test_a_missing_link_and_a_server_that_says_no_fail_the_module(world):
    assert INTERNAL in installed(world, job(module(url="")))[-1][2]
    assert "connection refused" in installed(world, job(module(url="http://nowhere.test/")))[-1][2]
    world.given["http"][URL]["status"] = 404
    assert "404" in installed(world, job(module()))[-1][2]


def test_the_artifacts_of_a_module_are_bounded_together():
    world = Held()
    send(world, INSTALL, job({**module(), "artifacts": module()["artifacts"] * 5}))
    body, limits = BODY.encode().ljust(MAX_ARTIFACT - 1), []
    for _ in range(5):
        limits.append(world.runs[0].operation.limit)
        world.end(body)
    assert limits == [MAX_ARTIFACT] * 4 + [4]


@pytest.mark.parametrize("operation", [INSTALL, REMOVE])
@pytest.mark.parametrize(("count", "length", "status"), [(256, 256, 204), (257, 256, 400), (256, 257, 400)])
def test_the_statuses_of_a_command_are_bounded(world, operation, count, length, status):
    software = [{**module(), "name": C2, "version": "1"}] * count
    argument = {"correlationId": "c" * length, "softwareModules": software, "software": software}
    message = command(operation, argument)
    decisions = world.core.message(message["topic"], json.dumps(message["payload"]).encode())
    [answer] = [one for one in decisions if isinstance(one, Publish) and "/res/" in one.topic]
    assert json.loads(answer.payload)["status"] == status


def test_a_failed_module_does_not_keep_the_next_from_being_installed(world):
    found = installed(world, job(module("bad", MD5="00"), module("good")))
    assert [status for _, status, _ in found][3:5] == ["FINISHED_REJECTED", "STARTED"]
    assert found[-1][1] == "FINISHED_SUCCESS"


@pytest.mark.parametrize(
    "argument",
    [
        {"softwareModules": [None]},
        {"softwareModules": [{"softwareModule": None, "artifacts": [{}]}]},
        {"softwareModules": [{"softwareModule": {"name": 5}, "artifacts": [{}]}]},
        {"softwareModules": [{"softwareModule": {}, "artifacts": [None]}]},
        {"softwareModules": [{"softwareModule": {}, "artifacts": [{"download": []}]}]},
        {"softwareModules": [{"softwareModule": {}, "artifacts": [{"checksums": {"MD5": 5}}]}]},
        {"softwareModules": {}},
        {"correlationId": 5, "softwareModules": [module()]},
    ],
)
def test_an_install_that_cannot_be_read_is_answered_400_and_tells_nothing(world, argument):
    [(status, _)] = world.ask(INSTALL, argument)
    assert status == 400
    assert told(world) == []


@pytest.mark.parametrize(
    "argument", [{}, None, {"software": []}, {"software": [5]}, {"software": [{"name": []}]}]
)
def test_a_removal_that_cannot_be_read_is_answered_400(world, argument):
    assert world.ask(REMOVE, argument)[0][0] == 400


def test_the_list_is_told_before_what_was_removed():
    world = World([container(status="RUNNING")])
    send(world, REMOVE, {"software": [{"group": "g", "name": C1, "version": "1", "type": "t"}]})
    payloads = [json.loads(item.payload) for item in world.seen]
    statuses = [
        p["value"]["status"] if "lastOp" in p["path"] else p["path"][-12:]
        for p in payloads
        if "/things/twin" in p["topic"]
    ]
    assert statuses.index("Dependencies") < statuses.index("REMOVED") < statuses.index("FINISHED_SUCCESS")
    item = {"group": "g", "name": C1, "version": "1", "type": "t"}
    assert list(payloads[-1]["value"]["software"][0].items()) == list(item.items())


def test_without_force_the_rest_is_left_alone_and_success_comes_last():
    world = World([container(), container(C2)])
    send(world, REMOVE, {"software": [{"name": C1}, {"name": "gone"}, {"name": C2}]})
    assert [entry[:2] for entry in told(world)] == [
        ("Operation", "REMOVING"),
        ("Operation", "REMOVED"),
        ("Operation", "REMOVING"),
        ("FailedOperation", "FINISHED_REJECTED"),
        ("Operation", "FINISHED_REJECTED"),
        ("FailedOperation", "FINISHED_ERROR"),
        ("Operation", "FINISHED_ERROR"),
        ("Operation", "FINISHED_SUCCESS"),
    ]
    assert [one.id for one in world.containers.list()] == [C2]


# ── interruptions ──


class Held(HeldWorld):
    def __init__(self, *arguments, **given):
        self.kept = []
        super().__init__(*arguments, **given)

    def carry_out(self, decisions):
        decisions = list(decisions)
        self.kept += [one.state for one in decisions if isinstance(one, Keep)]
        super().carry_out(decisions)

    def end(self, outcome=None):
        super().end(self.runs[0], outcome)


def registration(world):
    world.stimulate("mqtt-reconnect")
    world.seen.clear()
    world.send({"topic": "edge/thing/response", "payload": DEVICE})
    shown = next(
        p
        for p in (json.loads(i.payload or b"{}") for i in world.seen)
        if p.get("path") == "/features/SoftwareUpdatable"
    )
    return shown["value"]["properties"]["status"]


def test_jobs_follow_one_another_and_their_statuses_outlive_the_connection():
    world = Held()
    send(world, INSTALL, job(module("one"), correlation="1"))
    send(world, INSTALL, job(module("two"), correlation="2"))
    assert [run.operation for run in world.runs] == [Download(URL, 1 << 20)]
    world.carry_out(world.core.disconnected())
    world.end(OperationFailedError("no route"))
    shown = registration(world)
    assert shown["lastFailedOperation"]["message"] == "no route"
    assert (shown["lastOperation"]["correlationId"], shown["lastOperation"]["status"]) == ("2", "DOWNLOADING")
    assert list(shown) == ["softwareModuleType", "lastOperation", "lastFailedOperation"]
    world.end(BODY.encode())
    assert isinstance(world.runs[0].operation, Create)
    world.end(world.runs[0].operation.container)
    assert world.runs[0].operation == Start(C2)
    world.end()
    assert registration(world)["lastOperation"]["status"] == "FINISHED_SUCCESS"


def restarted(state, **given):
    """A new agent that finds *state*."""
    world = Held(edge_response=None, **given)
    world.core.restore(kept_from(json.loads(json.dumps(state)), tuple(given.get("stored_container_ids", ()))))
    return world


def test_a_job_that_the_end_of_the_agent_cut_short_has_failed_after_it():
    world = Held()
    send(world, INSTALL, job(module()))
    shown = registration(restarted(world.kept[-1]))
    assert shown["lastOperation"] == shown["lastFailedOperation"]
    assert shown["lastOperation"]["status"] == "FINISHED_ERROR"
    assert "DOWNLOADING" in shown["lastOperation"]["message"]


def test_statuses_of_ended_jobs_outlive_the_agent_as_they_were():
    world = Held(http={URL: {"body": BODY}})
    send(world, INSTALL, job(module()))
    world.end(OperationFailedError("no route"))
    before = registration(world)
    assert registration(restarted(world.kept[-1])) == before


def test_the_metrics_request_goes_on_after_a_restart_of_the_agent():
    world = Held([container(status="RUNNING")], stats={C1: [{"pids": 1}]})
    world.ask("/features/Metrics/inbox/messages/request", {"frequency": "5s"})
    later = restarted(world.kept[-1], containers=[container(status="RUNNING")], stats={C1: [{"pids": 2}]})
    registration(later)
    later.seen.clear()
    later.advance(later.now + 5)
    assert [json.loads(item.payload)["path"] for item in later.seen] == [
        "/features/Metrics/outbox/messages/data"
    ]
    later.ask("/features/Metrics/inbox/messages/request", {"frequency": "0s"})
    assert later.kept[-1]["request"] is None


def test_nothing_of_another_device_goes_on_after_a_restart_and_its_twin_is_cleared():
    world = Held([container(status="RUNNING")])
    world.ask("/features/Metrics/inbox/messages/request", {"frequency": "5s"})
    later = restarted(world.kept[-1], containers=[container(C2)], stored_container_ids=[C1])
    later.carry_out(later.core.connected())
    later.seen.clear()
    later.send({"topic": "edge/thing/response", "payload": {"deviceId": "acme.test:gw-02", "tenantId": "t2"}})
    assert ("delete", f"/features/Container:{C1}") in later.took()
    later.advance(later.now + 20)
    assert later.seen == []


def test_a_job_of_a_device_that_is_not_ours_any_more_tells_the_new_one_nothing():
    world = Held()
    send(world, INSTALL, job(module()))
    world.send({"topic": "edge/thing/response", "payload": {"deviceId": "acme.test:gw-02", "tenantId": "t2"}})
    world.seen.clear()
    world.end(OperationFailedError("no route"))
    assert world.seen == []
    assert world.core._software.statuses == {}


# ── the file ──


def test_what_is_kept_is_read_back(tmp_path):
    kept = Kept(
        Thing("t", "ns:a:edge:containers"), (), {"lastOperation": {"status": "x"}}, {"frequency": 5}, None
    )
    file = KeptFile(str(tmp_path))
    file.write(kept.as_state())
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    before = (tmp_path / FILE).stat().st_ino
    file.write(kept.as_state())
    assert (tmp_path / FILE).stat().st_ino == before
    assert KeptFile(str(tmp_path)).read() == kept


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"thing":5}',
        b'{"thing":"x"}',
        b'{"thing":"a:b:edge:containers","tenant":"#"}',
        b"[" * 9999,
    ],
)
def test_a_damaged_file_is_named_once_kept_aside_and_counts_as_none(tmp_path, caplog, content):
    (tmp_path / FILE).write_bytes(content)
    assert KeptFile(str(tmp_path)).read() == Kept()
    assert FILE in caplog.text
    assert (tmp_path / "twin_state.json.damaged").read_bytes() == content
    caplog.clear()
    assert KeptFile(str(tmp_path)).read() == Kept()
    assert caplog.text == ""


def test_a_file_that_cannot_be_read_stays_where_it_is(tmp_path, caplog):
    (tmp_path / FILE).mkdir()
    assert KeptFile(str(tmp_path)).read() == Kept()
    assert f"{FILE}: cannot be read" in caplog.text
    assert (tmp_path / FILE).is_dir()


@pytest.mark.parametrize(
    "state",
    [
        {"request": []},
        {"request": {"frequency": []}},
        {"told": 5},
        {"told": {"lastOperation": 5}},
        {"machine": 5},
    ],
)
def test_odd_content_of_the_file_is_left_out(state):
    thing = {"thing": "acme.test:gw-01:edge:containers", "tenant": "tenant-a"}
    assert registration(restarted({**thing, **state})) == {"softwareModuleType": "oci:container"}


def test_a_disk_that_refuses_is_logged(tmp_path, caplog):
    KeptFile(str(tmp_path / "none")).write({"thing": "x"})
    assert "cannot be written" in caplog.text
