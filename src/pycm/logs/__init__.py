# SPDX-License-Identifier: Apache-2.0
"""Container output on its way from the FIFOs of containerd's shim into json.log, and json.log read back.

    FIFO --splice--> spool --cut, encode--> json.log

`front` is what the event loop uses, `pump` is the thread that serves all containers. `fifos` creates and opens the
FIFOs, and `spool` keeps the bytes that are not in json.log yet. `records` is the form of a line (pure), `jsonlog` is
json.log with its rotated files. `sink` joins them so that a kill at any instant neither loses nor repeats a line.
`clients` get copies of the output.
"""
