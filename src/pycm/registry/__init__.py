# SPDX-License-Identifier: Apache-2.0
"""Images from registries and archives into containerd, by short-lived worker processes.

`worker` is such a process: it gets one job on standard input, reports on standard output, and its memory ends with it.
`service` is the agent's side: which image is pulled when, and which images are no longer needed.
"""
