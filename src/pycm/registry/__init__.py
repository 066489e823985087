# SPDX-License-Identifier: Apache-2.0
"""Images from registries and from archives, into containerd's store, by short-lived worker processes.

`worker` is what such a process runs: one job on standard input, progress on standard output, and its memory goes with it. is the agent's side: who may pull what when, and which images are no longer wanted.
"""
