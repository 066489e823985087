# SPDX-License-Identifier: Apache-2.0
"""things.policy: what may be asked for over MQTT, and the one error that a denied command gets."""

import json

import pytest
from twin_world import C1, C2, World, container

FACTORY = "/features/ContainerFactory/inbox/messages/"
INSTALL = "/features/SoftwareUpdatable/inbox/messages/install"
UPDATE = f"/features/Container:{C1}/inbox/messages/update"
IMAGE = "registry.test/web:2.1"
URL = "http://artifacts.test/web.json"

#: key of things.policy, the twin's field and value, and the same in a descriptor.
CASES = [
    ("privileged", "privileged", {"privileged": True}, "host_config.privileged", {"host_config": {"privileged": True}}),
    ("capabilities", "extraCapabilities", {"extraCapabilities": ["CAP_SYS_ADMIN"]},
     "host_config.extra_capabilities", {"host_config": {"extra_capabilities": ["CAP_SYS_ADMIN"]}}),
    ("capabilities", "seccompProfile", {"seccompProfile": "unconfined"},
     "host_config.seccomp_profile", {"host_config": {"seccomp_profile": "unconfined"}}),
    ("mounts", "mountPoints", {"mountPoints": [{"source": "/", "destination": "/host"}]},
     "mount_points", {"mount_points": [{"source": "/", "destination": "/host"}]}),
    ("mounts", "log.rootDir", {"log": {"type": "JSON_FILE", "maxFiles": 2, "maxSize": "1M", "rootDir": "/etc"}},
     "host_config.log_config.driver_config.root_dir",
     {"host_config": {"log_config": {"driver_config": {"root_dir": "/etc"}}}}),
    ("devices", "devices", {"devices": [{"pathOnHost": "/dev/sda", "pathInContainer": "/dev/a", "cgroupPermissions": "r"}]},
     "host_config.devices", {"host_config": {"devices": [{"path_on_host": "/dev/sda", "path_in_container": "/dev/a"}]}}),
    ("hooks", "", {}, "hooks", {"hooks": [{"path": "/bin/sh", "type": 0}]}),
]  # fmt: skip
IN_TWIN = [case[:3] for case in CASES if case[1]]
EVERYTHING = {key: False for key, *_ in CASES}


def refused(message):
    return [(500, {"error": "messages:execution.failed", "status": 500, "message": message})]


def told(answers):
    return [(status, payload.get("value")) for status, payload in answers]


def installed(world, **descriptor):
    """The statuses of an installation, and the message of the last."""
    given = {"container_id": C2, "image": {"name": IMAGE}, **descriptor}
    world.given["http"] = {URL: {"body": json.dumps(given)}}
    module = {
        "softwareModule": {"name": "web", "version": "1"},
        "artifacts": [{"download": {"HTTP": {"url": URL}}}],
    }
    world.seen.clear()
    world.ask_quietly(INSTALL, {"correlationId": "job", "softwareModules": [module]})
    values = [json.loads(item.payload).get("value") for item in world.seen if item.payload]
    found = [value for value in values if isinstance(value, dict) and value.get("correlationId") == "job"]
    return [value["status"] for value in found], found[-1].get("message", "")


@pytest.mark.parametrize(("key", "field", "config"), IN_TWIN)
def test_create_that_asks_for_what_is_denied_names_field_and_policy(key, field, config):
    world = World(policy={key: False})
    argument = {"imageRef": IMAGE, "config": config}
    assert told(world.ask(FACTORY + "createWithConfig", argument)) == refused(
        f"config.{field}: denied by things.policy.{key}"
    )
    assert world.containers.list() == []
    assert told(world.ask(FACTORY + "createWithConfig", {"imageRef": IMAGE, "config": {}}))[0][0] == 200


@pytest.mark.parametrize(("key", "field", "config"), IN_TWIN)
def test_create_is_allowed_what_other_keys_deny_and_everything_by_default(key, field, config):
    argument = {"imageRef": IMAGE, "config": config}
    for policy in ({}, {**EVERYTHING, key: True}):
        world = World(policy=policy)
        assert told(world.ask(FACTORY + "createWithConfig", argument))[0][0] == 200, field


@pytest.mark.parametrize(("key", "_", "__", "field", "descriptor"), CASES)
def test_installation_that_asks_for_what_is_denied_is_rejected(key, _, __, field, descriptor):
    world = World(policy={key: False})
    statuses, message = installed(world, **descriptor)
    assert statuses == ["STARTED", "DOWNLOADING", "FINISHED_REJECTED", "FINISHED_REJECTED"]
    assert message == f"{field}: denied by things.policy.{key}"
    assert world.containers.list() == []
    assert installed(World(policy={**EVERYTHING, key: True}), **descriptor)[0][-1] == "FINISHED_SUCCESS"


@pytest.mark.parametrize(
    ("path", "argument"),
    [
        (FACTORY + "create", {"imageRef": IMAGE}),
        (FACTORY + "createWithConfig", {"imageRef": IMAGE, "config": {}}),
        (INSTALL, {"correlationId": "j", "softwareModules": [
            {"softwareModule": {"name": "a", "version": "1"}, "artifacts": [{"download": {"HTTP": {"url": URL}}}]}]}),
    ],
)  # fmt: skip
def test_nothing_is_created_where_create_is_denied(path, argument):
    world = World(policy={"create": False})
    assert told(world.ask(path, argument)) == refused("creating a container: denied by things.policy.create")
    assert world.containers.list() == []


@pytest.mark.parametrize(("key", "field", "config"), IN_TWIN)
def test_update_that_asks_for_what_is_denied_is_refused(key, field, config):
    world = World([container(C1)], policy={key: False})
    assert told(world.ask(UPDATE, config)) == refused(f"{field}: denied by things.policy.{key}")
    assert world.ask(UPDATE, {"resources": {"memory": "10M"}})[0][0] == 204
    assert World([container(C1)]).ask(UPDATE, config)[0][0] == 204


def test_other_commands_work_under_the_strictest_policy():
    world = World([container(C1)], policy={**EVERYTHING, "create": False})
    for name in ("start", "stop", "start"):
        assert world.ask(f"/features/Container:{C1}/inbox/messages/{name}")[0][0] == 204
    assert world.ask(f"/features/Container:{C1}/inbox/messages/remove", True)[0][0] == 204
