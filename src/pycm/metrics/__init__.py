# SPDX-License-Identifier: Apache-2.0
"""Figures of running containers, read straight from their cgroups and /proc."""
