# SPDX-License-Identifier: Apache-2.0
"""What the tests of the connection share: clients that are stopped at the end."""

import pytest
from rude_broker import Quick

from pycm.config.types import Connection
from pycm.mqtt.client import LOCAL_CAP, MqttClient
from support.mqtt_listener import Listener


@pytest.fixture
async def connect():
    clients = []

    async def make(broker, **settings):
        client = MqttClient(Connection(broker_url=broker.url, **settings), Quick(LOCAL_CAP))
        listener = Listener()
        client.add_listener(listener)
        await client.start()
        clients.append(client)
        return client, listener

    yield make
    for client in clients:
        await client.stop()
