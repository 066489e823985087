# SPDX-License-Identifier: Apache-2.0
# Parsed only: the libraries are built with the real classes, see docs/yocto.md.
