# SPDX-License-Identifier: Apache-2.0
"""Container output on its way from the FIFOs of containerd's shim into json.log, and json.log read back.

    FIFO --splice--> spool --cut, encode--> json.log

`fifos` makes and opens the FIFOs, `spool` keeps the bytes that are not in json.log yet, `records` is the form of a line (pure),
`rotation` is json.log with its older files, `sink` joins these three so that a kill at any instant neither loses nor doubles a
line, `pump` is the thread that serves all containers, `reader` reads back, `files` is the room's front.
"""
