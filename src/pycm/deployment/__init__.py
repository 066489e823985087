# SPDX-License-Identifier: Apache-2.0
"""Containers from descriptors in a directory: a front that makes the machine's containers follow files."""
