# SPDX-License-Identifier: Apache-2.0
"""The broker's user and password are changed in the configuration file while the agent runs."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, private_containerd, wait_until
from mosquitto_server import MosquittoServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        yield server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoServer]:
    """It knows the users one and two."""
    passwords = tmp_path / "passwords"
    for flags, user in ((["-c", "-b"], "one"), (["-b"], "two")):
        subprocess.run(["mosquitto_passwd", *flags, passwords, user, f"of-{user}"], check=True)
    passwords.chmod(0o644)
    with MosquittoServer(tmp_path, f"allow_anonymous false\npassword_file {passwords}\n") as server:
        yield server


def connections(broker: MosquittoServer, user: str) -> int:
    return sum("New client connected" in line and f"u'{user}'" in line for line in broker.log_lines())


def test_a_changed_login_is_used_without_a_restart_and_a_broken_file_ends_no_connection(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd, broker)
    rest = agent.config.read_text() + 'keep_alive = "1s"\n'

    def log_in(user: str, password: str) -> None:
        agent.config.write_text(f'{rest}client_username = "{user}"\nclient_password = "{password}"\n')

    log_in("one", "wrong")
    with agent:
        assert agent.process
        pid = agent.process.pid
        wait_until(lambda: "client_username" in agent.text(), 20, "the refusal is in the log")
        log_in("one", "of-one")
        wait_until(lambda: connections(broker, "one") == 1, 20, "the right password is used")
        agent.config.write_text("this = is = no TOML")
        wait_until(lambda: "(the MQTT login stays)" in agent.text(), 20, "the broken file is in the log")
        log_in("two", "of-two")
        wait_until(lambda: connections(broker, "two") == 1, 20, "the new user is used")
        assert connections(broker, "one") == 1
        assert agent.process.pid == pid
        assert agent.process.poll() is None
        assert not any(secret in agent.text() for secret in ("of-one", "of-two", "wrong"))


def test_login_of_things_connection_and_an_address_without_scheme_are_used(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd, broker)
    rest = agent.config.read_text().replace(broker.url, "tcp://localhost:1")

    def log_in(user: str) -> None:
        agent.config.write_text(
            f'{rest}client_username = "nobody"\n[things.connection]\nbroker_url = "localhost:{broker.port}"\n'
            f'keep_alive = 1000\nclient_username = "{user}"\nclient_password = "of-{user}"\n'
        )

    log_in("one")
    with agent:
        wait_until(lambda: connections(broker, "one") == 1, 20, "the login of things.connection is used")
        assert "things.connection is deprecated: broker_url, keep_alive, client_username" in agent.text()
        assert ", k1, u'one')" in "".join(broker.log_lines())
        log_in("two")
        broker.stop()
        broker.start()
        wait_until(lambda: connections(broker, "two") == 1, 20, "the new user is used")
