# SPDX-License-Identifier: Apache-2.0
"""Client of containerd: the `Runtime` port over containerd's gRPC API, one namespace, no threads, no `ctr`."""
