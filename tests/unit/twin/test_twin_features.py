# SPDX-License-Identifier: Apache-2.0
"""What the features show: container features and dependencies byte for byte as recorded, and the metrics request."""

import json

import pytest
from twin_world import C1, C2, EVENTS, VECTORS, World, container

from pycm.errors import InvalidInputError
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DecryptConfig,
    DeviceMapping,
    HostConfig,
    Image,
    IOConfig,
    LogConfiguration,
    LogDriverConfiguration,
    LogModeConfiguration,
    MountPoint,
    PortMapping,
    Resources,
    RestartPolicy,
    State,
)
from pycm.model.frozen import replace
from pycm.model.measurements import CPU_THROTTLED, STANDARD_IDS
from pycm.model.states import Status
from pycm.ports import Action, ContainerMeasurements, Measurement
from pycm.twin import envelope
from pycm.twin.features import MAX_ENTRIES, MAX_TEXT, Arguments
from pycm.twin.features.container import ContainerFeature, state_value
from pycm.twin.features.container_config import config_value, masked
from pycm.twin.features.metrics import MAX_ALL_IDS, MAX_FILTERS, MAX_IDS, data_value, decode_request
from pycm.twin.features.software_updatable import dependencies
from pycm.twin.session import Thing

REQUEST = "/features/Metrics/inbox/messages/request"
THING = Thing("tenant-a", "acme.test:gw-01:edge:containers")


def recorded(name):
    lines = (VECTORS / "recorded" / name).read_text().splitlines()
    return [json.loads(line)["payload"] for line in lines]


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def log_config(size):
    return LogConfiguration(
        driver_config=LogDriverConfiguration(type="json-file", max_files=2, max_size=size),
        mode_config=LogModeConfiguration(mode="blocking"),
    )


DATABROKER = Container(
    id="1d1e3210-cc1b-4355-b3a6-7578ead14dab",
    name="databroker",
    image=Image(name="registry.test/demo/app:1.0"),
    domain_name="databroker-domain",
    host_name="device",
    config=ContainerConfiguration(env=("RUST_LOG=info",)),
    host_config=HostConfig(
        network_mode="host",
        restart_policy=RestartPolicy(type="on-failure", maximum_retry_count=3, retry_timeout=30 * 10**9),
        log_config=log_config("1M"),
        resources=Resources(memory="64M", memory_swap="128M"),
    ),
    created="2026-11-23T18:39:25.970877378Z",
    state=State(status=Status.RUNNING, running=True, pid=12304, started_at="2026-11-23T18:39:26.159788532Z"),
)
SEAT = Container(
    id="ba428775-741b-456b-8011-d0819bb02e8d",
    name="seat",
    image=Image(name="registry.test/demo/app:1.0"),
    domain_name="seat-domain",
    host_name="seat-host",
    mount_points=(MountPoint(source="/srv", destination="/data", propagation_mode="rslave"),),
    host_config=HostConfig(
        network_mode="bridge",
        restart_policy=RestartPolicy(type="unless-stopped"),
        extra_hosts=("db:container_databroker-host", "me:host_ip"),
        port_mappings=(
            PortMapping(
                proto="tcp", host_port=30051, host_port_end=30051, container_port=50051, host_ip="0.0.0.0"
            ),
        ),
        log_config=log_config("100M"),
    ),
    created="2026-11-23T18:39:25.992470685Z",
    state=State(status=Status.RUNNING, running=True, pid=12370, started_at="2026-11-23T18:39:26.49510863Z"),
)


@pytest.mark.parametrize("one", [DATABROKER, SEAT], ids=lambda one: one.name)
def test_a_container_feature_is_byte_for_byte_what_was_recorded(one):
    path = f"/features/Container:{one.id}"
    [expected] = [payload for payload in recorded("mqtt-connect.jsonl") if payload.get("path") == path]
    assert envelope.modify(THING, path, ContainerFeature().value_of(one)) == compact(expected)


def test_the_dependencies_are_byte_for_byte_what_was_recorded():
    expected = next(
        p["value"] for p in recorded("mqtt-connect.jsonl") if p.get("path") == "/features/SoftwareUpdatable"
    )
    shown = dependencies([SEAT, DATABROKER])
    assert compact(shown) == compact(expected["properties"]["status"]["installedDependencies"])


def test_states_are_byte_for_byte_what_was_recorded():
    stopped = State(
        status=Status.STOPPED,
        exit_code=143,
        started_at="2026-11-23T18:39:26.159788532Z",
        finished_at="2026-11-23T18:39:28.798653405Z",
    )
    expected = next(
        p["value"]
        for p in recorded("mqtt-changes.jsonl")
        if p.get("value", "") and "STOPPED" in str(p["value"])
    )
    assert compact(state_value(replace(DATABROKER, state=stopped))) == compact(expected)


def test_a_state_shows_errors_out_of_memory_and_the_end_of_a_removed_one():
    oom = replace(DATABROKER, state=State(status=Status.EXITED, exit_code=137, oom_killed=True))
    assert state_value(oom) == {
        "status": "EXITED",
        "pid": -1,
        "error": "OOM Killed",
        "exitCode": 137,
        "oomKilled": True,
    }
    assert state_value(oom, Status.DEAD)["status"] == "DEAD"
    assert "pid" not in state_value(replace(DATABROKER, state=State(pid=0)))


def test_every_other_part_of_the_configuration_has_its_name_and_place():
    full = replace(
        DATABROKER,
        image=Image(
            name="x",
            decrypt_config=DecryptConfig(keys=("/k.pem:pass=secret", "/plain.pem"), recipients=("r",)),
        ),
        config=ContainerConfiguration(cmd=("a", "b")),
        io_config=IOConfig(open_stdin=True, tty=True),
        mount_points=(MountPoint(source="/a", destination="/b", propagation_mode="odd"),),
        host_config=HostConfig(
            devices=(
                DeviceMapping(path_on_host="/dev/x", path_in_container="/dev/y", cgroup_permissions="rwm"),
            ),
            privileged=True,
            extra_capabilities=("CAP_NET_ADMIN",),
            network_mode="other",
            restart_policy=RestartPolicy(type="no"),
            port_mappings=(PortMapping(),),
            log_config=LogConfiguration(
                driver_config=LogDriverConfiguration(type="none", root_dir="/var/x"),
                mode_config=LogModeConfiguration(mode="non-blocking", max_buffer_size="1M"),
            ),
            resources=Resources(),
        ),
    )
    assert compact(config_value(full)) == compact(
        {
            "domainName": "databroker-domain",
            "mountPoints": [{"source": "/a", "destination": "/b", "propagationMode": "RPRIVATE"}],
            "hostName": "device",
            "cmd": ["a", "b"],
            "decryption": {"keys": ["/k.pem:***", "/plain.pem"], "recipients": ["r"]},
            "devices": [{"pathOnHost": "/dev/x", "pathInContainer": "/dev/y", "cgroupPermissions": "rwm"}],
            "privileged": True,
            "restartPolicy": {"type": "NO"},
            "portMappings": [{"hostPort": 0, "containerPort": 0}],
            "networkMode": "other",
            "openStdin": True,
            "tty": True,
            "log": {"type": "NONE", "rootDir": "/var/x", "mode": "NON_BLOCKING", "maxBufferSize": "1M"},
            "resources": {},
        }
    )
    assert config_value(Container(id="bare")) == {}


@pytest.mark.parametrize("key", ["/k:secret", "/k:pass=secret", ":secret", "provider:secret:secret"])
def test_no_password_of_a_decryption_key_is_shown(key):
    assert "secret" not in masked(key)


# ── container events ──


def test_a_new_container_is_told_as_feature_dependencies_and_state():
    world = World()
    world.containers.create_now(container())
    assert world.took() == [
        ("modify", f"/features/Container:{C1}"),
        ("modify", "/features/SoftwareUpdatable/properties/status/installedDependencies"),
        ("modify", f"/features/Container:{C1}/properties/status/state"),
    ]


def test_a_removed_container_is_told_dead_and_deleted_and_the_last_one_leaves_null():
    world = World([container()])
    world.containers.remove_now(C1)
    values = [json.loads(item.payload).get("value", "absent") for item in world.seen]
    assert values[0]["status"] == "DEAD"
    assert values[1:] == [None, "absent"]
    assert [kind for kind, _ in world.took()] == ["modify", "modify", "delete"]
    world.containers.tell(Action.REMOVED, DATABROKER)
    assert world.took() == []


def test_a_host_name_that_a_start_has_changed_is_told_once():
    world = World([container()])
    one = replace(world.containers.all[C1], host_name="machine")
    path = f"/features/Container:{C1}/properties/status"
    for action in (Action.RUNNING, Action.STOPPED):
        world.containers.tell(action, one)
    assert world.took() == [
        ("modify", f"{path}/state"),
        ("modify", f"{path}/config"),
        ("modify", f"{path}/state"),
    ]
    world.containers.tell(Action.UPDATED, replace(one, host_name="other"))
    world.containers.tell(Action.REMOVED, replace(one, host_name="third"))
    assert [what for what in world.took() if what[1] == f"{path}/config"] == [("modify", f"{path}/config")]


def test_a_container_that_was_not_known_is_told_whole_at_its_first_event():
    world = World()
    world.containers.tell(Action.RUNNING, DATABROKER)
    assert world.took()[0] == ("modify", f"/features/Container:{DATABROKER.id}")


# ── the metrics request ──


@pytest.mark.parametrize(
    ("argument", "seconds"),
    [
        (None, 0),
        ({}, 0),
        ({"frequency": "5s"}, 5),
        ({"Frequency": "1m30s"}, 90),
        ({"frequency": "10ms"}, 1),
        ({"frequency": 2}, 2),
        ({"frequency": 1.9}, 1),
        ({"frequency": 0.5}, 0),
        ({"frequency": -3}, -3),
        ({"frequency": "0"}, 0),
    ],
)
def test_the_period_is_a_duration_or_whole_seconds(argument, seconds):
    assert decode_request(argument).period == seconds * 10**9


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("text", r"^argument: .* is not an object"),
        ([], r"^argument: .* is not an object"),
        ({"frequency": None}, "invalid duration: <nil>"),
        ({"frequency": True}, "invalid duration: true"),
        ({"frequency": {}}, "invalid duration: {}"),
        ({"frequency": 1e300}, "invalid duration: 1e[+]300"),
        ({"frequency": "abc"}, 'time: invalid duration "abc"'),
        ({"frequency": "10 seconds"}, 'time: unknown unit " seconds" in duration "10 seconds"'),
        ({"frequency": "5"}, 'time: missing unit in duration "5"'),
        ({"filter": {}}, "filter: {} is not a list"),
        ({"filter": "x"}, "filter: 'x' is not a list"),
        ({"filter": [5]}, r"filter\[0\]: 5 is not an object"),
        ({"filter": [{"originator": 5}]}, r"filter\[0\].originator: 5 is not a string"),
        ({"filter": [{"id": "cpu"}]}, r"filter\[0\].id: 'cpu' is not a list"),
        ({"filter": [{}, {"id": [5]}]}, r"filter\[1\].id\[0\]: 5 is not a string"),
        ({"filter": [{}] * (MAX_FILTERS + 1)}, "1024 are allowed"),
        ({"filter": [{"id": ["x"] * (MAX_IDS + 1)}]}, "256 are allowed"),
        (
            {"filter": [{"id": ["x"] * MAX_IDS}] * (MAX_ALL_IDS // MAX_IDS) + [{"id": ["x"]}]},
            "more than 8192 ids",
        ),
        ({"frequency": "0s" * 200_000}, "time: invalid duration"),
    ],
)
def test_a_wrong_argument_is_named_with_its_place(argument, message):
    with pytest.raises(InvalidInputError, match=message):
        decode_request(argument)


def test_a_filter_may_have_as_many_ids_as_its_bound():
    request = decode_request({"filter": [{"id": ["cpu.*"] * MAX_IDS}] * (MAX_ALL_IDS // MAX_IDS)})
    assert request.accepted("c1") == {"cpu.utilization"}


def test_arguments_bound_lists_and_texts():
    given = Arguments({"env": ["a"] * MAX_ENTRIES, "software": [{}] * MAX_ENTRIES, "name": "n" * MAX_TEXT})
    assert len(given.texts("env")) == len(given.children("software")) == MAX_ENTRIES
    assert given.text("name") == "n" * MAX_TEXT
    given = Arguments(
        {"env": ["a"] * (MAX_ENTRIES + 1), "software": [{}] * (MAX_ENTRIES + 1), "name": "n" * (MAX_TEXT + 1)}
    )
    for read, name in ((given.texts, "env"), (given.children, "software")):
        with pytest.raises(InvalidInputError, match=f"{name} has 4097 entries; at most 4096 are allowed"):
            read(name)
    with pytest.raises(
        InvalidInputError, match=r"name: 'n+…n+' has 16385 characters; at most 16384 are allowed"
    ):
        given.text("name")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, None),
        ([], None),
        ([{"id": ["cpu.*"]}], {"cpu.utilization"}),
        ([{"id": ["cpu.u"]}], {"cpu.utilization"}),
        ([{"id": ["*"]}], set(STANDARD_IDS)),
        ([{"id": [""]}], set(STANDARD_IDS)),
        ([{"id": None}], set(STANDARD_IDS)),
        ([{"id": [None]}], set(STANDARD_IDS)),
        ([{"id": []}], set(STANDARD_IDS)),
        ([{"id": ["*.utilization"]}], set()),
        ([{"id": ["pids"], "originator": "Container:other"}], set()),
        (
            [{"id": ["pids"], "originator": "Container:c"}, {"id": ["io"]}],
            {"pids", "io.readBytes", "io.writeBytes"},
        ),
        ([{"id": [CPU_THROTTLED]}], {CPU_THROTTLED}),
    ],
)
def test_a_filter_lets_through_what_its_ids_select_and_extra_ones_only_by_name(filters, expected):
    assert decode_request({"filter": filters}).accepted("c") == expected


def test_data_comes_after_each_full_period_until_the_end_is_asked_for():
    world = World([container(status="RUNNING")], stats={C1: [{"pids": 3}]})
    assert world.ask(REQUEST, {"frequency": "5s"})[0][0] == 204
    world.advance(4.9)
    assert world.took() == []
    world.advance(15.1)
    assert world.took() == [("data", "/features/Metrics/outbox/messages/data")] * 3
    assert world.ask(REQUEST, {"frequency": "0s"})[0][0] == 204
    world.advance(100)
    assert world.took() == []


@pytest.mark.parametrize("frequency", ["1.000000001s", "1h", 7, 9_000_000_000, "2562047h47m16.854775807s"])
@pytest.mark.parametrize("filters", [None, [], [{"id": ["cpu.*", None]}, {"originator": "SYSTEM"}, None]])
def test_what_is_kept_of_a_request_is_the_same_request(frequency, filters):
    request = decode_request({"frequency": frequency, "filter": filters, "junk": [{}]})
    assert decode_request(json.loads(json.dumps(request.as_argument()))) == request


def test_a_request_survives_a_reconnect_and_is_silent_meanwhile():
    world = World([container(status="RUNNING")], stats={C1: [{"pids": 3}]})
    world.ask(REQUEST, {"frequency": "1s"})
    world.carry_out(world.core.disconnected())
    world.advance(10)
    assert world.took() == []
    world.carry_out(world.core.connected())
    world.advance(20)
    assert ("data", "/features/Metrics/outbox/messages/data") not in world.took()
    world.send({"topic": "edge/thing/response", "payload": world.given["edge_response"]})
    world.took()
    world.advance(21.5)
    assert world.took() == [("data", "/features/Metrics/outbox/messages/data")]


def test_a_request_ends_with_the_device_it_was_made_for():
    world = World([container(status="RUNNING")], stats={C1: [{"pids": 3}]})
    world.ask(REQUEST, {"frequency": "1s"})
    world.send({"topic": "edge/thing/response", "payload": {"deviceId": "acme.test:gw-02", "tenantId": "t"}})
    world.took()
    world.advance(10)
    assert world.took() == []


def test_a_container_that_starts_gets_its_baseline_and_a_stopped_one_is_left_out():
    stats = {C1: [{"cpu_used": 0, "cpu_total": 100}, {"cpu_used": 50, "cpu_total": 200}], C2: [{"pids": 1}]}
    world = World([container(), container(C2, "STOPPED")], stats=stats)
    world.ask(REQUEST, {"frequency": "1s"})
    world.advance(1.5)
    assert world.took() == []
    world.containers.run_now(C1)
    world.seen.clear()
    world.advance(2.5)
    [item] = world.seen
    assert item.topic == EVENTS
    assert json.loads(item.payload)["value"] == {
        "snapshot": [
            {"originator": f"Container:{C1}", "measurements": [{"id": "cpu.utilization", "value": 50}]}
        ],
        "timestamp": 1_800_000_002,
    }


def test_nothing_measured_is_no_message():
    assert data_value([], [], 1) is None
    assert data_value([ContainerMeasurements("a", ())], [], 1) is None
    assert data_value([ContainerMeasurements("a", (Measurement("pids", 1.0),))], [], 1) is not None


def test_values_of_environment_variables_are_masked_where_that_is_asked_for():
    one = replace(DATABROKER, config=ContainerConfiguration(env=("TOKEN=geheim=x", "PLAIN", "EMPTY=")))
    assert config_value(one, mask_env=True)["env"] == ["TOKEN=***", "PLAIN", "EMPTY=***"]
    feature = ContainerFeature(mask_env=True)
    assert "geheim" not in json.dumps([feature.value_of(one), feature.config_of(one)])
    assert "geheim" in json.dumps(ContainerFeature().value_of(one))
