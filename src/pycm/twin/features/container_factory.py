# SPDX-License-Identifier: Apache-2.0
"""The feature `ContainerFactory`: it stands for the place where containers are created, and has no properties.

With it enabled, each container has a feature of its own (`container.py`).
"""

from __future__ import annotations

from pycm.twin.features.base import Feature

ID = "ContainerFactory"


class ContainerFactory(Feature):
    definition = "com.bosch.iot.suite.edge.containers:ContainerFactory:1.3.0"
