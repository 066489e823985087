# SPDX-License-Identifier: Apache-2.0
"""Images from registries and from archives, into containerd's store, by short-lived worker processes.

`python -m pycm.registry` is the worker: one job on standard input, progress on standard output, and what it took of memory leaves
with it. `service` is the agent's side: who may pull what when, and which images are no longer wanted.
"""
