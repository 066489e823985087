# SPDX-License-Identifier: Apache-2.0
"""Values of environment variables: never in a log, and with `things.mask_env` in nothing that the twin or the cloud is told."""

import json

import pytest
from test_twin_software import INSTALL, URL, job, module, send
from twin_world import World

CREATE = "/features/ContainerFactory/inbox/messages/createWithConfig"
IMAGE = "registry.test/demo/app:1.0"
#: Environments that are refused, each with something secret in it.
WRONG = [
    ["1=geheim"],
    ["FINE=x", "A=x\ngeheim"],
    ["A=geheim\0"],
    ["the geheim alone"],
    [{"A": "geheim"}],
    "geheim",
]


def created(world, env, **changes):
    return world.ask(CREATE, {"imageRef": IMAGE, "config": {"env": env}}, **changes)


def installed(world, body):
    world.given["http"] = {URL: {"body": body}}
    send(world, INSTALL, job(module()))
    seen, world.seen[:] = [item.payload.decode() for item in world.seen], []
    return "\n".join(seen)


@pytest.mark.parametrize("env", WRONG)
def test_what_is_wrong_with_an_environment_is_answered_with_its_value_only_unmasked(env):
    [(status, plain)] = created(World(), env)
    assert status in (400, 500)
    assert "geheim" in plain["value"]["message"]
    [(same, masked)] = created(World(mask_env=True), env)
    assert same == status
    assert "geheim" not in json.dumps(masked)
    assert "env" in masked["value"]["message"]
    assert "***" in masked["value"]["message"]


@pytest.mark.parametrize("env", WRONG)
@pytest.mark.parametrize("mask", [True, False])
def test_no_log_has_a_value_of_an_environment(env, mask):
    world = World(mask_env=mask)
    assert created(world, env, request="") == []
    [note] = world.notes
    assert "geheim" not in note.text
    assert "***" in note.text


@pytest.mark.parametrize("env", WRONG)
@pytest.mark.parametrize("part", ["config", "hooks"])
def test_statuses_of_software_have_the_value_only_unmasked(env, part):
    parts = {"config": {"env": env}} if part == "config" else {"hooks": [{"path": "/x", "env": env}]}
    body = json.dumps({"image": {"name": IMAGE}, **parts})
    plain, masked = (installed(World(mask_env=mask), body) for mask in (False, True))
    if "FINISHED_SUCCESS" in plain:
        assert part == "hooks"  # nothing is wrong with it there
        return
    assert "lastFailedOperation" in plain
    assert "geheim" in plain
    assert "lastFailedOperation" in masked
    assert "geheim" not in masked


def test_a_masked_message_says_which_variable_it_is():
    [(_, answer)] = created(World(mask_env=True), ["A=1", "b-c=geheim"])
    assert answer["value"]["message"] == (
        "invalid environmental variable declaration provided : *** (config.env[1])"
    )


@pytest.mark.parametrize("wrong", ["geheim", {"keys": "geheim"}, {"keys": [{"/k": "geheim"}]}])
def test_of_wrong_decryption_keys_nobody_is_told_the_value(wrong):
    world = World()
    [(status, answer)] = world.ask(CREATE, {"imageRef": IMAGE, "config": {"decryption": wrong}})
    assert status == 400
    assert "geheim" not in json.dumps(answer)
    assert "config.decryption" in answer["value"]["message"]
    assert world.ask(CREATE, {"imageRef": IMAGE, "config": {"decryption": wrong}}, request="") == []
    assert not any("geheim" in note.text for note in world.notes)
    told = installed(world, json.dumps({"image": {"name": IMAGE, "decrypt_config": wrong}}))
    assert "image.decrypt_config" in told
    assert "geheim" not in told
