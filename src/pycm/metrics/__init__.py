# SPDX-License-Identifier: Apache-2.0
"""Measurements of running containers, read from their cgroups and /proc."""
