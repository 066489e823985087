# SPDX-License-Identifier: Apache-2.0
"""pycm: container manager for vehicles and edge devices, a drop-in for Eclipse Kanto container management."""

__version__ = "0.1.0"
